package emulator

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// maxInstancePage is the resource controller's hard limit, and its default.
const maxInstancePage = 100

// Catalog ids of Key Protect and its tiered-pricing plan (global catalog).
const (
	kmsOffering = "ee41347f-b18e-4ca6-bf80-b5467c63f9a6"
	kmsPlan     = "eedd3585-90c6-4c8f-be3d-062069e99fc3"
)

// resourceControllerHandler serves the resource controller API v2, reading only.
func (e *Emulator) resourceControllerHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/v2/resource_instances", e.listInstances)
	r.Get("/v2/resource_instances/{id}", e.getInstance)
	return r
}

type lastOperation struct {
	Type        string `json:"type"`
	State       string `json:"state"`
	SubType     string `json:"sub_type"`
	Async       bool   `json:"async"`
	Description string `json:"description"`
	ReasonCode  string `json:"reason_code"`
	PollAfter   int    `json:"poll_after"`
	Cancelable  bool   `json:"cancelable"`
	Poll        bool   `json:"poll"`
}

type planHistory struct {
	PlanID    string `json:"resource_plan_id"`
	StartDate string `json:"start_date"`
}

// instanceView is a resource instance as the API shows it; its id is its CRN.
type instanceView struct {
	ID               string         `json:"id"`
	GUID             string         `json:"guid"`
	URL              string         `json:"url"`
	CreatedAt        string         `json:"created_at"`
	UpdatedAt        string         `json:"updated_at"`
	Name             string         `json:"name"`
	RegionID         string         `json:"region_id"`
	AccountID        string         `json:"account_id"`
	PlanID           string         `json:"resource_plan_id"`
	ResourceGroupID  string         `json:"resource_group_id"`
	ResourceGroupCRN string         `json:"resource_group_crn"`
	TargetCRN        string         `json:"target_crn"`
	Parameters       map[string]any `json:"parameters"`
	AllowCleanup     bool           `json:"allow_cleanup"`
	CRN              string         `json:"crn"`
	State            string         `json:"state"`
	Type             string         `json:"type"`
	SubType          string         `json:"sub_type"`
	ResourceID       string         `json:"resource_id"`
	DashboardURL     *string        `json:"dashboard_url"`
	LastOperation    lastOperation  `json:"last_operation"`
	AliasesURL       string         `json:"resource_aliases_url"`
	BindingsURL      string         `json:"resource_bindings_url"`
	KeysURL          string         `json:"resource_keys_url"`
	PlanHistory      []planHistory  `json:"plan_history"`
	Migrated         bool           `json:"migrated"`
	Extensions       map[string]any `json:"extensions"`
	ControlledBy     string         `json:"controlled_by"`
	Locked           bool           `json:"locked"`
}

// madeID is a stable id where IBM's is not public: the catalog ids of hs-crypto, resource groups.
func madeID(name string) string {
	return uuid.NewHash(sha256.New(), uuid.NameSpaceOID, []byte(name), 8).String()
}

func viewInstance(in instance) instanceView {
	offering, plan := kmsOffering, kmsPlan
	if in.Service == serviceHPCS {
		offering, plan = madeID("hs-crypto offering"), madeID("hs-crypto plan standard")
	}
	crn, created := in.crn(":"), in.Created.UTC().Format(time.RFC3339Nano)
	path := "/v2/resource_instances/" + url.PathEscape(crn)
	group := strings.ReplaceAll(madeID("resource group of "+in.Account), "-", "")
	return instanceView{
		ID: crn, CRN: crn, GUID: in.GUID, URL: path, CreatedAt: created, UpdatedAt: created,
		Name: in.Name, RegionID: in.Region, AccountID: in.Account, PlanID: plan, ResourceID: offering,
		ResourceGroupID:  group,
		ResourceGroupCRN: fmt.Sprintf("crn:v1:bluemix:public:resource-controller::a/%s::resource-group:%s", in.Account, group),
		TargetCRN:        fmt.Sprintf("crn:v1:bluemix:public:globalcatalog::::deployment:%s%%3A%s", plan, in.Region),
		Parameters:       map[string]any{}, Extensions: map[string]any{},
		State: "active", Type: "service_instance", SubType: in.Service,
		LastOperation: lastOperation{Type: "create", State: "succeeded"},
		AliasesURL:    path + "/resource_aliases", BindingsURL: path + "/resource_bindings", KeysURL: path + "/resource_keys",
		PlanHistory: []planHistory{{plan, created}},
	}
}

// writeControllerFault writes the resource controller's error document.
func writeControllerFault(w http.ResponseWriter, status int, code, message string) {
	jsonhttp.Write(w, status, map[string]any{
		"error_code": code, "message": message, "status_code": status, "transaction_id": "bss-" + uuid.NewString(),
	})
}

// caller is who the request's token speaks for. Without a valid one it writes the answer, 401, and
// reports false.
func (e *Emulator) controllerCaller(w http.ResponseWriter, r *http.Request) (string, bool) {
	caller, err := e.iam.Caller(r)
	if err != nil {
		writeControllerFault(w, http.StatusUnauthorized, "RC-IamTokenInvalid", "The token is missing or not valid.")
		return "", false
	}
	return caller, true
}

func (e *Emulator) mayRetrieve(caller string, in instance) bool {
	return e.iam.May(caller, "resource-controller.instance.retrieve", access.OnInstance(in.Account, in.Service, in.Region, in.GUID))
}

// listInstances shows the instances on which the caller has a platform role by GUID, 100 at most, with a relative
// next_url or null. With start, which carries the filters of the first page, other parameters are
// ignored.
func (e *Emulator) listInstances(w http.ResponseWriter, r *http.Request) {
	caller, ok := e.controllerCaller(w, r)
	if !ok {
		return
	}
	query := r.URL.Query()
	if start := query.Get("start"); start != "" {
		var err error
		if query, err = url.ParseQuery(start); err != nil || !query.Has("after") {
			writeControllerFault(w, http.StatusBadRequest, "RC-InvalidQueryParameter", "The start token is not valid.")
			return
		}
	}
	limit := maxInstancePage
	if s := query.Get("limit"); s != "" {
		var err error
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxInstancePage {
			writeControllerFault(w, http.StatusBadRequest, "RC-InvalidQueryParameter", "The limit must be 1 to 100.")
			return
		}
	}
	found := []instanceView{}
	more := false
	err := e.store.view(func(tx *txn) error {
		return records.Each(tx.bucket(bucketInstances), func(in instance) error {
			v := viewInstance(in)
			if !e.mayRetrieve(caller, in) || in.GUID <= query.Get("after") || !v.matches(query) {
				return nil
			}
			if more = len(found) == limit; !more {
				found = append(found, v)
			}
			return nil
		})
	})
	if err != nil {
		e.internal(w, r, "resource_instances", err)
		return
	}
	var next *string
	if more {
		query.Set("after", found[len(found)-1].GUID)
		page := url.Values{"start": {query.Encode()}, "limit": {strconv.Itoa(limit)}}
		path := "/v2/resource_instances?" + page.Encode()
		next = &path
	}
	jsonhttp.Write(w, http.StatusOK, map[string]any{"rows_count": len(found), "next_url": next, "resources": found})
}

// matches applies the filters of the list: a parameter that is absent matches everything.
func (v instanceView) matches(query url.Values) bool {
	for name, value := range map[string]string{
		"guid": v.GUID, "name": v.Name, "resource_group_id": v.ResourceGroupID, "resource_id": v.ResourceID,
		"resource_plan_id": v.PlanID, "type": v.Type, "sub_type": v.SubType, "state": v.State,
	} {
		if query.Has(name) && query.Get(name) != value {
			return false
		}
	}
	return true
}

// getInstance finds one instance on which the caller has a platform role by GUID or encoded CRN.
func (e *Emulator) getInstance(w http.ResponseWriter, r *http.Request) {
	caller, ok := e.controllerCaller(w, r)
	if !ok {
		return
	}
	id := jsonhttp.PathParam(r, "id")
	var found *instanceView
	err := e.store.view(func(tx *txn) error {
		return records.Each(tx.bucket(bucketInstances), func(in instance) error {
			if (in.GUID == id || in.crn(":") == id) && e.mayRetrieve(caller, in) {
				v := viewInstance(in)
				found = &v
			}
			return nil
		})
	})
	switch {
	case err != nil:
		e.internal(w, r, "resource_instances", err)
	case found == nil:
		writeControllerFault(w, http.StatusNotFound, "RC-InstanceNotFound", "The instance was not found.")
	default:
		jsonhttp.Write(w, http.StatusOK, found)
	}
}
