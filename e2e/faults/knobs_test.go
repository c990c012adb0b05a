//go:build linux

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
)

// knob sets a knob of the emulator that takes rules (docs/emulator.md); without
// rules it is cleared.
func (c *cell) knob(ctx context.Context, name string, rules ...map[string]any) error {
	if rules == nil {
		rules = []map[string]any{}
	}
	text, err := json.Marshal(map[string]any{"rules": rules})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+address(c.knobs)+"/emulator/v1/"+name, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return ask(req, nil)
}

// keyManagers returns a rule for Key Protect and one for HPCS.
func keyManagers(members map[string]any) []map[string]any {
	var rules []map[string]any
	for _, service := range []string{serviceKMS, serviceHPCS} {
		rule := map[string]any{"service": service}
		for name, value := range members {
			rule[name] = value
		}
		rules = append(rules, rule)
	}
	return rules
}
