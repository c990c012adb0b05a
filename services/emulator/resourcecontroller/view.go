package resourcecontroller

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Catalog ids of Key Protect and its tiered-pricing plan (global catalog).
const (
	kmsOffering = "ee41347f-b18e-4ca6-bf80-b5467c63f9a6"
	kmsPlan     = "eedd3585-90c6-4c8f-be3d-062069e99fc3"
)

// offering is a service in the catalog. Its first plan is that of instances of a seed.
type offering struct {
	id    string
	plans []string
}

// offerings by service. The ids of hs-crypto and of Key Protect's cross-region plan are not public.
var offerings = map[string]offering{
	KeyProtect: {kmsOffering, []string{kmsPlan, madeID("kms plan cross-region-resiliency")}},
	HPCS:       {madeID("hs-crypto offering"), []string{madeID("hs-crypto plan standard")}},
}

func serviceOfPlan(plan string) (string, bool) {
	for name, o := range offerings {
		if slices.Contains(o.plans, plan) {
			return name, true
		}
	}
	return "", false
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
	Requestor string `json:"requestor_id,omitempty"`
}

// instanceView is a resource instance as the API shows it; its id is its CRN.
type instanceView struct {
	ID               string         `json:"id"`
	GUID             string         `json:"guid"`
	URL              string         `json:"url"`
	CreatedAt        string         `json:"created_at"`
	CreatedBy        string         `json:"created_by,omitempty"`
	UpdatedAt        string         `json:"updated_at"`
	UpdatedBy        string         `json:"updated_by,omitempty"`
	DeletedAt        string         `json:"deleted_at,omitempty"`
	DeletedBy        string         `json:"deleted_by,omitempty"`
	ReclaimAt        string         `json:"scheduled_reclaim_at,omitempty"`
	ReclaimBy        string         `json:"scheduled_reclaim_by,omitempty"`
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

func apiTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (s *service) view(in Instance) instanceView {
	o := offerings[in.Service]
	plan := in.Plan
	if plan == "" && len(o.plans) > 0 {
		plan = o.plans[0]
	}
	crn, group := in.CRN(), ResourceGroup(in.Account)
	path := "/v2/resource_instances/" + url.QueryEscape(crn) // : and / are encoded
	v := instanceView{
		ID: crn, CRN: crn, GUID: in.GUID, URL: path, CreatedAt: apiTime(in.Created), CreatedBy: in.CreatedBy,
		UpdatedAt: apiTime(in.updated()), UpdatedBy: in.UpdatedBy,
		Name: in.Name, RegionID: in.Region, AccountID: in.Account, PlanID: plan, ResourceID: o.id,
		ResourceGroupID:  group,
		ResourceGroupCRN: fmt.Sprintf("crn:v1:bluemix:public:resource-controller::a/%s::resource-group:%s", in.Account, group),
		TargetCRN:        fmt.Sprintf("crn:v1:bluemix:public:globalcatalog::::deployment:%s%%3A%s", plan, in.Region),
		Parameters:       in.Parameters, Extensions: map[string]any{}, AllowCleanup: in.AllowCleanup, Locked: in.Locked,
		State: in.state(s.Now()), Type: "service_instance", SubType: in.Service,
		LastOperation: lastOperation{Type: cmp.Or(in.Operation, "create"), State: "succeeded"},
		AliasesURL:    path + "/resource_aliases", BindingsURL: path + "/resource_bindings", KeysURL: path + "/resource_keys",
		PlanHistory: []planHistory{{plan, apiTime(in.Created), in.CreatedBy}},
	}
	if v.Parameters == nil {
		v.Parameters = map[string]any{}
	}
	if !in.Deleted.IsZero() {
		v.DeletedAt, v.DeletedBy = apiTime(in.Deleted), in.DeletedBy
		v.ReclaimAt, v.ReclaimBy = apiTime(in.Deleted.Add(reclaimAfter)), in.DeletedBy
	}
	return v
}

// matches applies the filters of the list. A parameter that is absent matches everything, but for the
// state: then it is active.
func (v instanceView) matches(query url.Values) bool {
	for name, value := range map[string]string{
		"guid": v.GUID, "name": v.Name, "resource_group_id": v.ResourceGroupID, "resource_id": v.ResourceID,
		"resource_plan_id": v.PlanID, "type": v.Type, "sub_type": v.SubType,
	} {
		if query.Has(name) && query.Get(name) != value {
			return false
		}
	}
	return cmp.Or(query.Get("state"), stateActive) == v.State
}
