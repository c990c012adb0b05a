package kms

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Paging of keys (Key Protect API v2, list keys). Paging ends where a page is not full.
const (
	defaultKeyPage = 200
	maxPage        = 5000 // of every list
	maxSearchSpace = 5000
	maxSameFilter  = 3
)

// page reads limit and offset.
func (c *call) page(standard int) (limit, offset int, err error) {
	limit, offset = standard, 0
	if s := c.query.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxPage {
			return 0, 0, queryError("limit", "The limit is out of range.")
		}
	}
	if s := c.query.Get("offset"); s != "" {
		if offset, err = strconv.Atoi(s); err != nil || offset < 0 {
			return 0, 0, queryError("offset", "The offset must not be negative.")
		}
	}
	return limit, offset, nil
}

func slicePage[T any](all []T, limit, offset int) []T {
	start := min(offset, len(all))
	return all[start:min(start+limit, len(all))]
}

// addTotal adds totalCount if the request asks for it.
func (c *call) addTotal(m *metadata, n int) {
	if c.query.Get("totalCount") == "true" {
		m.TotalCount = &n
	}
}

// listKeys shows one page of keys, never with payload.
func (c *call) listKeys() (answer, error) {
	limit, offset, err := c.page(defaultKeyPage)
	if err != nil {
		return answer{}, err
	}
	order, err := parseSort(c.query.Get("sort"), c.now)
	if err != nil {
		return answer{}, err
	}
	found, err := c.selectKeys()
	if err != nil {
		return answer{}, err
	}
	incomplete := false
	if text := c.query.Get("search"); text != "" {
		s := parseSearch(text)
		if len(found) > maxSearchSpace {
			// Above the limit only a key's id or alias can be found, by asking for it directly.
			incomplete = true
			found = slices.DeleteFunc(found, func(k key) bool { return k.ID != s.text && !slices.Contains(k.Aliases, s.text) })
			if len(found) == 0 {
				return answer{}, errSearchTooBroad
			}
		} else {
			found = slices.DeleteFunc(found, func(k key) bool { return !s.matches(k) })
		}
	}
	slices.SortStableFunc(found, order)
	var views []keyView
	for _, k := range slicePage(found, limit, offset) {
		views = append(views, c.view(k))
	}
	body := collection("key", views)
	body.Metadata.IncompleteSearch = incomplete
	return answer{status: http.StatusOK, body: body}, nil
}

// countKeys answers with the number of keys in the header Key-Total.
func (c *call) countKeys() (answer, error) {
	found, err := c.selectKeys()
	n := len(found)
	return answer{status: http.StatusOK, total: &n}, err
}

// selectKeys finds the keys that state, extractable, filter and the key ring header leave, by id.
func (c *call) selectKeys() ([]key, error) {
	conditions, err := parseFilter(c.query.Get("filter"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"state", "extractable"} {
		value := c.query.Get(name)
		if value == "" {
			continue
		}
		if slices.ContainsFunc(conditions, func(f condition) bool { return f.property == name }) {
			return nil, queryError(name, "The property is in the filter as well.")
		}
		f, err := parseCondition(name, value)
		if err != nil {
			return nil, queryError(name, "The value is not valid.")
		}
		conditions = append(conditions, f)
	}
	if !slices.ContainsFunc(conditions, func(f condition) bool { return f.property == "state" }) {
		conditions = append(conditions, condition{property: "state", holds: func(k key, now time.Time) bool {
			return k.state(now) != stateDestroyed
		}})
	}
	var found []key
	rings := map[string]bool{} // by id: may the caller see what is in it
	err = each(c, bucketKeys, func(k key) error {
		if k.purged(c.now) || c.ring != "" && c.ring != k.Ring {
			return nil
		}
		if _, asked := rings[k.Ring]; !asked {
			var err error
			if rings[k.Ring], err = c.may(k.Ring, ""); err != nil {
				return err
			}
		}
		if !rings[k.Ring] {
			return nil
		}
		for _, f := range conditions {
			if !f.holds(k, c.now) {
				return nil
			}
		}
		found = append(found, k)
		return nil
	})
	return found, err
}

// keyDates are the dates that can be filtered and sorted by; a zero time means that there is none.
var keyDates = map[string]func(key) time.Time{
	"creationDate":   func(k key) time.Time { return k.Created },
	"lastUpdateDate": func(k key) time.Time { return k.Updated },
	"lastRotateDate": func(k key) time.Time { return k.Rotated },
	"deletionDate":   func(k key) time.Time { return k.Deleted },
	"expirationDate": func(k key) time.Time { return k.Expires },
}

// shown is a date as answers show it, to the second: filters and sorting go by that.
func shown(t time.Time) time.Time { return t.Truncate(time.Second) }

// condition is one property=value of a filter.
type condition struct {
	property string
	holds    func(key, time.Time) bool
}

// parseFilter reads space-separated conditions, at most three on one property.
func parseFilter(text string) ([]condition, error) {
	var out []condition
	seen := map[string]int{}
	for _, part := range strings.Fields(text) {
		property, value, ok := strings.Cut(part, "=")
		if seen[property]++; !ok || seen[property] > maxSameFilter {
			return nil, queryError("filter", "A filter is property=value, with at most three of one property.")
		}
		f, err := parseCondition(property, value)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// parseCondition reads state=1,2 and extractable=true, and dates as date="…", date=gte:"…" or
// date=none with an RFC 3339 date in double quotes.
func parseCondition(property, value string) (condition, error) {
	bad := queryError("filter", "The filter is not valid.")
	switch property {
	case "state":
		var states []int
		for s := range strings.SplitSeq(value, ",") {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 || n > 5 {
				return condition{}, bad
			}
			states = append(states, n)
		}
		return condition{property, func(k key, now time.Time) bool { return slices.Contains(states, k.state(now)) }}, nil
	case "extractable":
		if value != "true" && value != "false" {
			return condition{}, bad
		}
		return condition{property, func(k key, _ time.Time) bool { return k.Extractable == (value == "true") }}, nil
	}
	of, ok := keyDates[property]
	if !ok {
		return condition{}, bad
	}
	if value == "none" {
		return condition{property, func(k key, _ time.Time) bool { return of(k).IsZero() }}, nil
	}
	op, quoted, ok := strings.Cut(value, `"`)
	text, rest, closed := strings.Cut(quoted, `"`)
	limit, err := time.Parse(time.RFC3339, text)
	if !ok || !closed || rest != "" || err != nil {
		return condition{}, bad
	}
	accepts := map[string][]int{"": {0}, "lt:": {-1}, "lte:": {-1, 0}, "gt:": {1}, "gte:": {1, 0}}[op]
	if accepts == nil {
		return condition{}, bad
	}
	return condition{property, func(k key, _ time.Time) bool {
		t := of(k)
		return !t.IsZero() && slices.Contains(accepts, shown(t).Compare(limit))
	}}, nil
}

// parseSort reads a comma list of properties, "-" in front for descending; ids decide ties.
func parseSort(text string, now time.Time) (func(a, b key) int, error) {
	flag := func(get func(key) bool) func(a, b key) int {
		number := map[bool]int{true: 1}
		return func(a, b key) int { return number[get(a)] - number[get(b)] }
	}
	byID := func(a, b key) int { return cmp.Compare(a.ID, b.ID) }
	var orders []func(a, b key) int
	for part := range strings.SplitSeq(cmp.Or(text, "id"), ",") {
		name, descending := strings.CutPrefix(part, "-")
		var order func(a, b key) int
		switch name {
		case "id":
			order = byID
		case "state":
			order = func(a, b key) int { return a.state(now) - b.state(now) }
		case "extractable":
			order = flag(func(k key) bool { return k.Extractable })
		case "imported":
			order = flag(func(k key) bool { return k.Imported })
		default:
			of := keyDates[name]
			if of == nil {
				return nil, queryError("sort", "The property can't be sorted by.")
			}
			order = func(a, b key) int { return shown(of(a)).Compare(shown(of(b))) }
		}
		if descending {
			up := order
			order = func(a, b key) int { return up(b, a) }
		}
		orders = append(orders, order)
	}
	orders = append(orders, byID)
	return func(a, b key) int {
		for _, order := range orders {
			if n := order(a, b); n != 0 {
				return n
			}
		}
		return 0
	}, nil
}

// search is the query of the same name: a part of a name or alias, in any case, or a key's id.
type search struct {
	text           string
	not, exact     bool
	names, aliases bool // where to look; neither: in both
}

// parseSearch reads the prefixes not: escape: exact: alias: name: in any order. keyprotect-go-client
// puts a comma behind the text.
func parseSearch(text string) search {
	s := search{text: strings.TrimSuffix(text, ",")}
	for {
		prefix, rest, _ := strings.Cut(s.text, ":")
		switch prefix {
		case "not":
			s.not = true
		case "exact":
			s.exact = true
		case "alias":
			s.aliases = true
		case "name":
			s.names = true
		case "escape":
			s.text = rest
			return s
		default:
			return s
		}
		s.text = rest
	}
}

func (s search) matches(k key) bool {
	if k.ID == s.text {
		return !s.not
	}
	var texts []string
	if s.names || !s.aliases {
		texts = append(texts, k.Name)
	}
	if s.aliases || !s.names {
		texts = append(texts, k.Aliases...)
	}
	found := slices.ContainsFunc(texts, func(t string) bool {
		t, want := strings.ToLower(t), strings.ToLower(s.text)
		if s.exact {
			return t == want
		}
		return strings.Contains(t, want)
	})
	return found != s.not
}
