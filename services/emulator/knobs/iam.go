package knobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// IAM is what can be turned in the emulator's IAM. A function that is nil can't.
type IAM struct {
	// RollSigningKeys makes a new key that signs tokens; those of older keys stay valid until
	// RetireSigningKeys.
	RollSigningKeys, RetireSigningKeys func() error
	// SetDecisionDelay is the time from a change of policies until it counts.
	SetDecisionDelay func(time.Duration)
}

var errNoIAM = errors.New("the emulator's IAM does not do this")

// Connect gives the knobs the IAM that they turn. It comes before Set and Routes.
func (k *Knobs) Connect(iam IAM) {
	k.knobs["signing-keys"] = &signingKeys{iam: iam}
	k.knobs["decisions"] = &decisions{iam: iam}
}

// signingKeys makes IAM sign with a new key each time it is set.
type signingKeys struct {
	iam   IAM
	mu    sync.Mutex
	rolls int
}

func (s *signingKeys) show(context.Context, url.Values) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return json.Marshal(map[string]int{"rolls": s.rolls})
}

func (s *signingKeys) set(body []byte) error {
	var b struct {
		RetireOld bool `json:"retire_old"`
	}
	if err := jsonhttp.Decode(body, &b); err != nil {
		return err
	}
	if s.iam.RollSigningKeys == nil {
		return errNoIAM
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.iam.RollSigningKeys(); err != nil {
		return err
	}
	s.rolls++
	if b.RetireOld {
		return s.iam.RetireSigningKeys()
	}
	return nil
}

// clear retires the older keys: what was signed with them is no longer valid.
func (s *signingKeys) clear() error {
	if s.iam.RetireSigningKeys == nil {
		return errNoIAM
	}
	return s.iam.RetireSigningKeys()
}

// decisions delays what a change of policies does.
type decisions struct {
	iam IAM
	mu  sync.Mutex
	decisionsBody
}

type decisionsBody struct {
	DelayS int `json:"delay_s"`
}

func (d *decisions) show(context.Context, url.Values) (json.RawMessage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return json.Marshal(d.decisionsBody)
}

func (d *decisions) set(body []byte) error {
	var b decisionsBody
	if err := jsonhttp.Decode(body, &b); err != nil {
		return err
	}
	if b.DelayS < 0 || b.DelayS > maxSeconds {
		return fmt.Errorf("delay_s is not 0 to %d", maxSeconds)
	}
	if d.iam.SetDecisionDelay == nil {
		return errNoIAM
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.decisionsBody = b
	d.iam.SetDecisionDelay(time.Duration(b.DelayS) * time.Second)
	return nil
}

func (d *decisions) clear() error { return d.set([]byte(`{}`)) }
