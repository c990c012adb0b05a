package resourcecontroller

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// maxInstancePage is the resource controller's hard limit, and its default.
const maxInstancePage = 100

// Config is what the API needs of its surroundings; every field is required.
type Config struct {
	DB  *bbolt.DB // holds Buckets; a change is on disk before its answer leaves
	Now func() time.Time
	Log *slog.Logger

	Caller func(*http.Request) (iamID string, err error)
	May    func(iamID, action string, on access.Attributes) bool
	// Keeps says why the service itself refuses that its instance is deleted; empty: it does not.
	Keeps func(tx *bbolt.Tx, in Instance) (reason string, err error)
}

type service struct{ Config }

// Actions of the platform roles on instances (IAM roles and actions).
const (
	actionRetrieve = "resource-controller.instance.retrieve"
	actionCreate   = "resource-controller.instance.create"
	actionUpdate   = "resource-controller.instance.update"
	actionDelete   = "resource-controller.instance.delete"
)

// New is the handler of the resource controller's address.
func New(cfg Config) http.Handler {
	s := &service{cfg}
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(transactionHeader, cmp.Or(r.Header.Get(transactionHeader), "bss-"+uuid.NewString()))
			next.ServeHTTP(w, r)
		})
	})
	api := jsonhttp.API{
		Caller: cfg.Caller, NoCaller: errToken, BadBody: badRequest("The body could not be read or is too large."),
		WriteError: writeFault, Log: cfg.Log,
	}
	route := func(method, path string, do func(*jsonhttp.Call) (jsonhttp.Answer, error)) {
		r.Method(method, "/v2/resource_instances"+path, api.Serve(do))
	}
	route("GET", "", s.list)
	route("POST", "", s.create)
	route("GET", "/{id}", s.get(func(in Instance) any { return s.view(in) }))
	route("PATCH", "/{id}", s.update)
	route("DELETE", "/{id}", s.remove)
	route("GET", "/{id}/last_operation", s.get(func(in Instance) any { return s.view(in).LastOperation }))
	route("POST", "/{id}/lock", s.lock(true))
	route("DELETE", "/{id}/lock", s.lock(false))
	return r
}

const transactionHeader = "Transaction-Id"

// fault is an error of the resource controller.
type fault struct {
	status        int
	code, message string
	details       string // JSON as a string, as the controller passes on what a broker said
}

func (f *fault) Error() string { return fmt.Sprintf("%d %s: %s", f.status, f.code, f.message) }

func badRequest(format string, args ...any) *fault {
	return &fault{status: http.StatusBadRequest, code: "RC-InvalidRequest", message: fmt.Sprintf(format, args...)}
}

// The codes of these errors are not public.
var (
	errToken     = &fault{status: http.StatusUnauthorized, code: "RC-IamTokenInvalid", message: "The token is missing or not valid."}
	errForbidden = &fault{status: http.StatusForbidden, code: "RC-Forbidden", message: "You are not allowed to do this."}
	errNotFound  = &fault{status: http.StatusNotFound, code: "RC-InstanceNotFound", message: "The instance was not found."}
	errLocked    = &fault{status: http.StatusUnprocessableEntity, code: "RC-InstanceLocked", message: "The instance is locked."}
	errGone      = &fault{status: http.StatusUnprocessableEntity, code: "RC-InstanceNotActive", message: "The instance is not active."}
	errStart     = badRequest("The start token is not valid.")
	errLimit     = badRequest("The limit must be 1 to 100.")
)

// brokerFault is a refusal of the service's broker, which the controller shows as 422.
func brokerFault(reason string) *fault {
	broker, _ := json.Marshal(map[string]any{"status": http.StatusConflict, "description": reason}) // strings always encode
	return &fault{http.StatusUnprocessableEntity, "RC-ServiceBrokerErrorResponse", "The service broker refused: " + reason, string(broker)}
}

func writeFault(w http.ResponseWriter, err error) bool {
	f := (*fault)(nil)
	if !errors.As(err, &f) {
		return false
	}
	jsonhttp.Write(w, f.status, map[string]any{
		"error_code": f.code, "message": f.message, "status_code": f.status,
		"transaction_id": w.Header().Get(transactionHeader), "details": f.details,
	})
	return true
}

func (s *service) may(c *jsonhttp.Call, action string, in Instance) bool {
	return s.May(c.By, action, in.Attributes())
}

// list shows the instances on which the caller has a platform role, by GUID, active ones unless the
// query asks for another state, with a relative next_url or null. With start, which carries the
// filters of the first page, other parameters are ignored.
func (s *service) list(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	query := c.URL.Query()
	if start := query.Get("start"); start != "" {
		var err error
		if query, err = url.ParseQuery(start); err != nil || !query.Has("after") {
			return jsonhttp.Answer{}, errStart
		}
	}
	limit := maxInstancePage
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxInstancePage {
			return jsonhttp.Answer{}, errLimit
		}
	}
	span, err := parseSpan(query)
	if err != nil {
		return jsonhttp.Answer{}, err
	}
	found := []instanceView{}
	more := false
	err = s.DB.View(func(tx *bbolt.Tx) error {
		return records.Each(instances(tx), func(in Instance) error {
			v := s.view(in)
			if in.GUID <= query.Get("after") || !v.matches(query) || !span.holds(in.updated()) || !s.may(c, actionRetrieve, in) {
				return nil
			}
			if more = len(found) == limit; !more {
				found = append(found, v)
			}
			return nil
		})
	})
	var next *string
	if more {
		query.Set("after", found[len(found)-1].GUID)
		page := url.Values{"start": {query.Encode()}, "limit": {strconv.Itoa(limit)}}
		path := "/v2/resource_instances?" + page.Encode()
		next = &path
	}
	body := map[string]any{"rows_count": len(found), "next_url": next, "resources": found}
	return jsonhttp.Answer{Status: http.StatusOK, Body: body}, err
}

// span is the range of updated_from and updated_to; zero: open.
type span struct{ from, to time.Time }

func parseSpan(query url.Values) (span, error) {
	var s span
	for name, into := range map[string]*time.Time{"updated_from": &s.from, "updated_to": &s.to} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			if t, err = time.Parse(time.DateOnly, text); err != nil {
				return s, badRequest("%s must be a time or a date.", name)
			}
		}
		*into = t
	}
	return s, nil
}

func (s span) holds(t time.Time) bool {
	return !t.Before(s.from) && (s.to.IsZero() || !t.After(s.to))
}

// find is the instance that the path names by GUID or CRN, if the caller may retrieve it; to others it
// does not exist.
func (s *service) find(c *jsonhttp.Call, tx *bbolt.Tx) (Instance, error) {
	guid := jsonhttp.PathParam(c.Request, "id")
	if a, ok := access.AttributesOf(guid); ok {
		guid = a["serviceInstance"]
	}
	in, err := records.Get[Instance](instances(tx), guid)
	switch id := jsonhttp.PathParam(c.Request, "id"); {
	case errors.Is(err, records.ErrNone), err == nil && id != in.GUID && id != in.CRN(), err == nil && !s.may(c, actionRetrieve, in):
		return Instance{}, errNotFound
	}
	return in, err
}

func (s *service) get(view func(Instance) any) func(*jsonhttp.Call) (jsonhttp.Answer, error) {
	return func(c *jsonhttp.Call) (jsonhttp.Answer, error) {
		var in Instance
		err := s.DB.View(func(tx *bbolt.Tx) (err error) {
			in, err = s.find(c, tx)
			return err
		})
		return jsonhttp.Answer{Status: http.StatusOK, Body: view(in)}, err
	}
}

var namePattern = regexp.MustCompile(`^[\pL\pN _.:-]{1,180}$`)

// create makes an instance in the account whose resource group is named. It is active at once.
func (s *service) create(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var b struct {
		Name         string         `json:"name"`
		Target       string         `json:"target"`
		Group        string         `json:"resource_group"`
		Plan         string         `json:"resource_plan_id"`
		Tags         []string       `json:"tags"` // of the tagging service, which is not played
		AllowCleanup bool           `json:"allow_cleanup"`
		Parameters   map[string]any `json:"parameters"`
	}
	if err := jsonhttp.Decode(c.Body, &b); err != nil {
		return jsonhttp.Answer{}, badRequest("The body is not valid: %v.", err)
	}
	name, ok := serviceOfPlan(b.Plan)
	switch {
	case !namePattern.MatchString(b.Name):
		return jsonhttp.Answer{}, badRequest("The name must have 1 to 180 letters, digits, spaces or any of -._: characters.")
	case !ok:
		return jsonhttp.Answer{}, badRequest("The resource_plan_id is unknown.")
	case b.Target == "":
		return jsonhttp.Answer{}, badRequest("The target is missing.")
	}
	in := Instance{
		GUID: uuid.NewString(), Service: name, Region: b.Target, Name: b.Name, Plan: b.Plan, Parameters: b.Parameters,
		AllowCleanup: b.AllowCleanup, Locked: c.Header.Get("Entity-Lock") == "true",
		Created: s.Now().UTC(), CreatedBy: c.By, Operation: "create",
	}
	err := s.DB.Update(func(tx *bbolt.Tx) error {
		err := records.Each(tx.Bucket([]byte(bucketAccounts)), func(a Account) error {
			if ResourceGroup(a.ID) == b.Group {
				in.Account = a.ID
			}
			return nil
		})
		if err != nil {
			return err
		}
		if in.Account == "" || !s.may(c, actionCreate, in) {
			return errForbidden
		}
		return records.Put(instances(tx), in.GUID, in)
	})
	return jsonhttp.Answer{Status: http.StatusCreated, Body: s.view(in)}, err
}

// revise changes the instance of the path by edit.
func (s *service) revise(c *jsonhttp.Call, action string, edit func(*bbolt.Tx, *Instance) error) (Instance, error) {
	var in Instance
	err := s.DB.Update(func(tx *bbolt.Tx) (err error) {
		if in, err = s.find(c, tx); err != nil {
			return err
		}
		if !s.may(c, action, in) {
			return errForbidden
		}
		if !in.Deleted.IsZero() {
			return errGone
		}
		if err := edit(tx, &in); err != nil {
			return err
		}
		in.Updated, in.UpdatedBy = s.Now().UTC(), c.By
		return records.Put(instances(tx), in.GUID, in)
	})
	return in, err
}

func (s *service) update(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	var b struct {
		Name         *string        `json:"name"`
		Plan         *string        `json:"resource_plan_id"`
		AllowCleanup *bool          `json:"allow_cleanup"`
		Parameters   map[string]any `json:"parameters"`
	}
	if err := jsonhttp.Decode(c.Body, &b); err != nil {
		return jsonhttp.Answer{}, badRequest("The body is not valid: %v.", err)
	}
	in, err := s.revise(c, actionUpdate, func(_ *bbolt.Tx, in *Instance) error {
		if in.Locked {
			return errLocked
		}
		if b.Name != nil {
			if in.Name = *b.Name; !namePattern.MatchString(in.Name) {
				return badRequest("The name must have 1 to 180 letters, digits, spaces or any of -._: characters.")
			}
		}
		if b.Plan != nil {
			if name, ok := serviceOfPlan(*b.Plan); !ok || name != in.Service {
				return badRequest("The resource_plan_id is none of this service.")
			}
			in.Plan = *b.Plan
		}
		if b.AllowCleanup != nil {
			in.AllowCleanup = *b.AllowCleanup
		}
		if b.Parameters != nil {
			in.Parameters = b.Parameters
		}
		in.Operation = "update"
		return nil
	})
	return jsonhttp.Answer{Status: http.StatusOK, Body: s.view(in)}, err
}

// remove deletes an instance, unless its service keeps it. There are no aliases or credentials that
// recursive could be about.
func (s *service) remove(c *jsonhttp.Call) (jsonhttp.Answer, error) {
	_, err := s.revise(c, actionDelete, func(tx *bbolt.Tx, in *Instance) error {
		if in.Locked {
			return errLocked
		}
		reason, err := s.Keeps(tx, *in)
		if err != nil {
			return err
		}
		if reason != "" {
			return brokerFault(reason)
		}
		in.Deleted, in.DeletedBy, in.Operation = s.Now().UTC(), c.By, "delete"
		return nil
	})
	return jsonhttp.Answer{Status: http.StatusAccepted}, err
}

func (s *service) lock(locked bool) func(*jsonhttp.Call) (jsonhttp.Answer, error) {
	return func(c *jsonhttp.Call) (jsonhttp.Answer, error) {
		in, err := s.revise(c, actionUpdate, func(_ *bbolt.Tx, in *Instance) error {
			in.Locked = locked
			return nil
		})
		return jsonhttp.Answer{Status: http.StatusOK, Body: s.view(in)}, err
	}
}
