package knobs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// clock moves the emulator's time.
type clock struct {
	base   func() time.Time
	offset atomic.Int64 // nanoseconds
}

type clockBody struct {
	OffsetS int64 `json:"offset_s"`
}

func (c *clock) now() time.Time { return c.base().Add(time.Duration(c.offset.Load())) }

func (c *clock) show(context.Context, url.Values) (json.RawMessage, error) {
	return json.Marshal(struct {
		clockBody
		Now time.Time `json:"now"`
	}{clockBody{c.offset.Load() / int64(time.Second)}, c.now().UTC()})
}

func (c *clock) set(body []byte) error {
	var b clockBody
	if err := jsonhttp.Decode(body, &b); err != nil {
		return err
	}
	if b.OffsetS < -maxSeconds || b.OffsetS > maxSeconds {
		return fmt.Errorf("offset_s is not -%d to %d, a year", maxSeconds, maxSeconds)
	}
	c.offset.Store(b.OffsetS * int64(time.Second))
	return nil
}

func (c *clock) clear() error {
	c.offset.Store(0)
	return nil
}
