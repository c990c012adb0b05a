package control

import (
	"context"
	"strconv"
)

// Entries of a page.
const (
	defaultLimit = 50
	maxLimit     = 100
)

// errStart refuses a page that never was.
var errStart = inParameter("start", "Query parameter `start` names no page. Take it from `next.start` of the page before, or leave it out for the first page.")

// pageLimit reads the parameter `limit`.
func pageLimit(limit *int32) (int, error) {
	if limit == nil {
		return defaultLimit, nil
	}
	if *limit < 1 || *limit > maxLimit {
		return 0, inParameter("limit", "Query parameter `limit` has to be a number from 1 to %d.", maxLimit)
	}
	return int(*limit), nil
}

// pageURL returns the URL of a page of the collection that was asked for, with
// the same filters. An empty start is the first page.
func (h *handlers) pageURL(ctx context.Context, start string, limit int) string {
	u := *exchangeOf(ctx).url
	if h.public != nil {
		u.Scheme, u.Host = h.public.Scheme, h.public.Host
	}
	query := u.Query()
	query.Del("start")
	if start != "" {
		query.Set("start", start)
	}
	query.Set("limit", strconv.Itoa(limit))
	u.RawQuery = query.Encode()
	return u.String()
}
