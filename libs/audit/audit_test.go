package audit_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/audit"
)

// A record has the fields and the time of Activity Tracker's events; many at
// once are as many lines.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	sink := audit.NewLog(&out, "node-1", "boot-1", time.Now).Record
	e := audit.Event{
		EventTime: audit.Time(time.Date(2026, 1, 2, 4, 4, 5, 678e6, time.FixedZone("", 3600))),
		Action:    "vmware-solutions.service.create", Outcome: audit.Pending, Observer: audit.ActivityTracker,
		Reason: audit.Reason{ReasonCode: 202, ReasonType: "Accepted"}, RequestData: map[string]any{}, ResponseData: map[string]any{},
	}
	var writers sync.WaitGroup
	for range 20 {
		writers.Go(func() {
			if err := sink(e); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 20 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		reason := got["reason"].(map[string]any)
		if got["eventTime"] != "2026-01-02T03:04:05.67+0000" || reason["reasonCode"] != 202.0 || strings.Contains(line, "reasonForFailure") || strings.Contains(line, "null") {
			t.Fatal(line)
		}
		var again audit.Event
		if err := json.Unmarshal([]byte(line), &again); err != nil || !time.Time(again.EventTime).Equal(time.Date(2026, 1, 2, 3, 4, 5, 67e7, time.UTC)) {
			t.Fatalf("%+v, %v", again, err)
		}
	}
}

func TestSeverityAndOutcome(t *testing.T) {
	for _, c := range []struct {
		verb       string
		credential bool
		status     int
		severity   audit.Severity
		outcome    audit.Outcome
	}{
		{"read", false, http.StatusOK, audit.Normal, audit.Success},
		{"create", false, http.StatusAccepted, audit.Normal, audit.Pending},
		{"create", false, http.StatusNotFound, audit.Normal, audit.Failure},
		{"create", true, http.StatusOK, audit.Critical, audit.Success},
		{"update", false, http.StatusOK, audit.Warning, audit.Success},
		{"delete", false, http.StatusNoContent, audit.Critical, audit.Success},
		{"delete", false, http.StatusConflict, audit.Warning, audit.Failure},
		{"read", false, http.StatusForbidden, audit.Critical, audit.Failure},
		{"read", false, http.StatusServiceUnavailable, audit.Critical, audit.Failure},
		{"read", false, http.StatusInternalServerError, audit.Warning, audit.Failure},
	} {
		if s, o := audit.SeverityOf(c.verb, c.credential, c.status), audit.OutcomeOf(c.status); s != c.severity || o != c.outcome {
			t.Errorf("%+v: %s, %s", c, s, o)
		}
	}
	if m := audit.MessageOf("VMware Solutions", "delete", "service", "a", audit.Failure); m != "VMware Solutions: delete service a -failure" {
		t.Error(m)
	}
}
