package control_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/audit"
	"github.com/kmip-for-vmware/kmip/services/control"
)

// recorded decodes the lines that a sink wrote.
func (c *cell) recorded(t *testing.T) []audit.Event {
	t.Helper()
	var all []audit.Event
	for line := range strings.Lines(c.events.String()) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// kept reads an instance's events through the API, page by page.
func (c *cell) kept(t *testing.T, account, id string) (actions []string) {
	t.Helper()
	path := "/v1/instances/" + id + "/events?limit=2"
	for {
		page := read[api.EventCollection](t, c.as(t, account, "GET", path, ""), http.StatusOK)
		for _, e := range page.Events {
			actions = append(actions, e["action"].(string)+" "+e["outcome"].(string))
		}
		if page.Next == nil {
			return actions
		}
		if len(page.Events) != 2 {
			t.Fatalf("a page of %d", len(page.Events))
		}
		path = "/v1/instances/" + id + "/events?limit=2&start=" + page.Next.Start
	}
}

// Every call is recorded with who made it, what it was about and what came of
// it; the account finds those that changed its instance, or tried to, and no
// other's. No secret is in them.
func TestEvents(t *testing.T) {
	c := start(t)
	i := c.connected(t, account, keyManagerBody(nil))
	other := c.connected(t, stranger, hpcsBody(stranger))
	path := "/v1/instances/" + i.id
	c.call(t, "PUT", path+"/key_manager", keyManagerBody(map[string]any{"root_key_id": uuid.NewString()}))
	c.call(t, "GET", path, "")
	if r := c.as(t, stranger, "DELETE", path, ""); r.status != http.StatusNotFound {
		t.Fatalf("a stranger deletes: %d", r.status)
	}
	r := c.send(t, "DELETE", c.url+path, c.cloud.token(t, account, jwt.MapClaims{"sub_type": "ServiceId", "iam_id": "iam-ServiceId-1", "email": nil, "name": "robot"}), "", "If-Match", `"old"`)
	if r.status != http.StatusPreconditionFailed {
		t.Fatalf("deleting another state: %d %s", r.status, r.body)
	}
	c.call(t, "DELETE", path, "")

	want := []string{
		"vmware-solutions.service.delete pending", "vmware-solutions.service.delete failure",
		"vmware-solutions.key-manager.update failure", "vmware-solutions.key-manager.update success", "vmware-solutions.service.create pending",
	}
	if got := c.kept(t, account, i.id); !slices.Equal(got, want) {
		t.Errorf("kept\n%q\nwant\n%q", got, want)
	}
	if got := c.kept(t, stranger, other.id); !slices.Equal(got, want[3:]) {
		t.Errorf("the stranger's: %q", got)
	}
	refusal(t, c.as(t, stranger, "GET", path+"/events", ""), http.StatusNotFound, api.ErrorCodeNotFound, "", "no instance")
	refusal(t, c.call(t, "GET", path+"/events?start=x", ""), http.StatusBadRequest, api.ErrorCodeInvalidValue, "start", "names no page")

	instance := "crn:v1:bluemix:public:vmware-solutions:us-south:a/" + account + ":" + i.id + "::"
	found := map[string]audit.Event{}
	for _, e := range c.recorded(t) {
		found[e.Action+" "+string(e.Outcome)+" "+e.Initiator.ID+" "+e.LogSourceCRN] = e
	}
	ada := "IBMid-270004ABCD"
	for key, check := range map[string]func(e audit.Event) bool{
		"vmware-solutions.service.create pending " + ada + " " + instance: func(e audit.Event) bool {
			return e.Severity == audit.Normal && e.Target.ID == instance && e.Target.TypeURI == "vmware-solutions/service" && e.Reason.ReasonCode == 202
		},
		"vmware-solutions.key-manager.update failure " + ada + " " + instance: func(e audit.Event) bool {
			return e.Severity == audit.Warning && strings.Contains(e.Reason.ReasonForFailure, "nothing was changed") && strings.HasSuffix(e.Message, "-failure")
		},
		"vmware-solutions.key-manager.update success " + ada + " " + instance: func(e audit.Event) bool { return e.Severity == audit.Critical },
		"vmware-solutions.service.read success " + ada + " " + instance: func(e audit.Event) bool {
			return e.Severity == audit.Normal && e.Initiator.Host.Address == "127.0.0.1" && e.Initiator.Host.AddressType == "IPv4" && e.Initiator.TypeURI == "service/security/account/user"
		},
		"vmware-solutions.service.delete failure iam-ServiceId-1 " + instance: func(e audit.Event) bool {
			return e.Initiator.TypeURI == "service/security/account/serviceid" && e.Initiator.Name == "robot" && e.CorrelationID == r.header.Get("X-Correlation-ID")
		},
		"vmware-solutions.service.delete failure " + ada + " " + strings.Replace(instance, account, stranger, 1): func(e audit.Event) bool {
			return e.Reason.ReasonCode == 404
		},
	} {
		if e, ok := found[key]; !ok || !check(e) || e.Observer != audit.ActivityTracker || e.CorrelationID == "" || e.DataEvent {
			t.Errorf("%s: %+v\namong %q", key, e, slices.Sorted(maps.Keys(found)))
		}
	}
	if text := c.events.String(); strings.Contains(text, canaryAPIKey) || strings.Contains(text, "Bearer") || strings.Contains(text, "eyJ") {
		t.Error("a secret is in the events")
	}
}

// Every route has a name in the record, and no other has.
func TestEveryRouteHasAnEvent(t *testing.T) {
	if named, table := control.EventRoutes(), control.TableRoutes(); !slices.Equal(named, table) {
		t.Errorf("named %q\ntable %q", named, table)
	}
}
