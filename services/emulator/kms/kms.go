// Package kms plays the Key Protect API v2, as Key Protect (kms) and as Hyper Protect Crypto Services
// (hs-crypto). Of the rest of the emulator it knows a data file, a clock, and three questions that it
// asks: who sent a request, which instance a GUID names, and whether a caller may do something there.
package kms

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Services that speak this API, by their names in CRNs.
const (
	KeyProtect = "kms"
	HPCS       = "hs-crypto"
)

// Instance is a key manager instance. Service is KeyProtect or HPCS. While the crypto units of an HPCS
// instance are not initialized it refuses every call.
type Instance struct {
	GUID, Service, Account, Region string
	Uninitialized                  bool
}

// crn is the name of something in the instance; resource is "key:<id>" or "policy:<id>".
func (i Instance) crn(resource string) string {
	return fmt.Sprintf("crn:v1:bluemix:public:%s:%s:a/%s:%s:%s", i.Service, i.Region, i.Account, i.GUID, resource)
}

// Access is a question to IAM: may Caller, an IAM id, do Action there? Action is named as in IAM
// without the service in front, for example secrets.wrap. KeyRing is empty when the question is about
// the whole instance, Key when it is about no key in particular.
type Access struct {
	Caller, Action string
	Instance       Instance
	KeyRing, Key   string
}

// ErrTokenUnreadable is the error of Config.Caller for a bearer token that is no token at all. Every
// other error of it means that the request proves nobody.
var ErrTokenUnreadable = errors.New("the token cannot be parsed")

// ErrNoInstance is the error of Config.Instance for a GUID that names none.
var ErrNoInstance = errors.New("no such instance")

// Config is what the API needs of its surroundings; every field is required.
type Config struct {
	DB  *bbolt.DB // holds Buckets; a change is on disk before its answer leaves
	Now func() time.Time
	Log *slog.Logger

	Caller   func(*http.Request) (iamID string, err error)
	Instance func(tx *bbolt.Tx, guid string) (Instance, error)
	May      func(ctx context.Context, tx *bbolt.Tx, question Access) (bool, error)
}

// Buckets of the data file; each holds one nested bucket per instance that has something there.
const (
	bucketKeys          = "keys"          // key id → key
	bucketMaterial      = "material"      // key id → material
	bucketAliases       = "aliases"       // alias → key id
	bucketRings         = "key_rings"     // ring id → keyRing
	bucketRegistrations = "registrations" // key id and resource CRN → registration
	bucketPolicies      = "policies"      // type → policy of the instance
	bucketImportTokens  = "import_tokens" // importTokenID → importToken
)

// Buckets are the top-level buckets that Config.DB must have.
var Buckets = []string{bucketKeys, bucketMaterial, bucketAliases, bucketRings, bucketRegistrations, bucketPolicies, bucketImportTokens}

// maxBodyBytes bounds every request body: room for a ciphertext of the largest plaintext beside the
// largest additional authenticated data.
const maxBodyBytes = 256 << 10

// defaultRing is the key ring every instance has; it is not stored.
const defaultRing = "default"

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// call is one request, past the checks that all calls share. It runs in one transaction, which is on
// disk before its answer is written.
type call struct {
	server *server
	may    func(keyRing, key string) (bool, error)
	tx     *bbolt.Tx
	now    time.Time
	in     Instance
	by     string // IAM id
	ring   string // X-Kms-Key-Ring; empty: any
	prefer string // "minimal", "representation" or empty
	query  url.Values
	param  func(string) string // of the path
	body   []byte
	key    key // that the path names; empty when it names none; shared, copy what is changed in place
}

// answer is the status of a success, its body (nil: none) and Key-Total (nil: absent).
type answer struct {
	status int
	body   any
	total  *int
}

// operation is one call of the API: the action it needs and where, whether it changes anything, what
// its errors say came to nothing, and its code.
type operation struct {
	action string
	where  func(*call) error
	write  bool
	fault  string
	do     func(*call) (answer, error)
}

// operations by method and path below /api/v2 (Key Protect API v2).
var operations = map[string]operation{
	"POST /keys":                                   {"secrets.create", (*call).inTargetRing, true, "Key could not be created", (*call).createKey},
	"POST /keys_with_policy_overrides":             {"secrets.create", (*call).inTargetRing, true, "Key could not be created", (*call).createKeyWithPolicies},
	"GET /keys":                                    {"secrets.list", (*call).inSomeRing, false, "Keys could not be retrieved", (*call).listKeys},
	"HEAD /keys":                                   {"secrets.head", (*call).inSomeRing, false, "Keys could not be counted", (*call).countKeys},
	"GET /keys/{key}":                              {"secrets.read", (*call).onKey, false, "Key could not be retrieved", (*call).getKey},
	"GET /keys/{key}/metadata":                     {"secrets.readmetadata", (*call).onKey, false, "Key metadata could not be retrieved", (*call).getMetadata},
	"GET /keys/{key}/versions":                     {"secrets.listkeyversions", (*call).onKey, false, "Key versions could not be retrieved", (*call).listVersions},
	"PATCH /keys/{key}":                            {"secrets.patch", (*call).onKey, true, "Key could not be updated", (*call).moveKey},
	"DELETE /keys/{key}":                           {"secrets.delete", (*call).onKey, true, "Key could not be deleted", (*call).deleteKey},
	"POST /keys/{key}/restore":                     {"secrets.restore", (*call).onKey, true, "Key could not be restored", (*call).restoreKey},
	"DELETE /keys/{key}/purge":                     {"secrets.purge", (*call).onKey, true, "Key could not be purged", (*call).purgeKey},
	"POST /keys/{key}/actions/wrap":                {"secrets.wrap", (*call).onKey, false, "Key could not be used to wrap", (*call).wrap},
	"POST /keys/{key}/actions/unwrap":              {"secrets.unwrap", (*call).onKey, false, "Key could not be used to unwrap", (*call).unwrap},
	"POST /keys/{key}/actions/rewrap":              {"secrets.rewrap", (*call).onKey, false, "Key could not be used to rewrap", (*call).rewrap},
	"POST /keys/{key}/actions/rotate":              {"secrets.rotate", (*call).onKey, true, "Key could not be rotated", (*call).rotateKey},
	"POST /keys/{key}/actions/disable":             {"secrets.disable", (*call).onKey, true, "Key could not be disabled", (*call).disableKey},
	"POST /keys/{key}/actions/enable":              {"secrets.enable", (*call).onKey, true, "Key could not be enabled", (*call).enableKey},
	"POST /keys/{key}/actions/setKeyForDeletion":   {"secrets.setkeyfordeletion", (*call).onKey, true, "Key could not be set for deletion", (*call).setForDeletion},
	"POST /keys/{key}/actions/unsetKeyForDeletion": {"secrets.unsetkeyfordeletion", (*call).onKey, true, "Key could not be unset for deletion", (*call).unsetForDeletion},
	"POST /keys/{key}/actions/sync":                {"secrets.sync", (*call).onKey, true, "Key could not be synchronized", (*call).syncKey},
	"POST /keys/{key}/aliases/{alias}":             {"secrets.createalias", (*call).onKey, true, "Alias could not be created", (*call).createAlias},
	"DELETE /keys/{key}/aliases/{alias}":           {"secrets.deletealias", (*call).onKey, true, "Alias could not be deleted", (*call).deleteAlias},
	"GET /keys/{key}/policies":                     {"policies.read", (*call).onKey, false, "Policies could not be retrieved", (*call).getKeyPolicies},
	"PUT /keys/{key}/policies":                     {"policies.write", (*call).onKey, true, "Policies could not be set", (*call).setKeyPolicies},
	"GET /keys/registrations":                      {"registrations.list", (*call).onInstance, false, "Registrations could not be retrieved", (*call).listRegistrations},
	"GET /keys/{key}/registrations":                {"registrations.list", (*call).onKey, false, "Registrations could not be retrieved", (*call).listRegistrations},
	"POST /keys/{key}/registrations/{crn}":         {"registrations.create", (*call).onKey, true, "Registration could not be created", (*call).createRegistration},
	"DELETE /keys/{key}/registrations/{crn}":       {"registrations.delete", (*call).onKey, true, "Registration could not be deleted", (*call).deleteRegistration},
	"GET /key_rings":                               {"keyrings.list", (*call).onInstance, false, "Key rings could not be retrieved", (*call).listRings},
	"POST /key_rings/{ring}":                       {"keyrings.create", (*call).onInstance, true, "Key ring could not be created", (*call).createRing},
	"DELETE /key_rings/{ring}":                     {"keyrings.delete", (*call).onInstance, true, "Key ring could not be deleted", (*call).deleteRing},
	"GET /instance/policies":                       {"instancepolicies.read", (*call).onInstance, false, "Policies could not be retrieved", (*call).getInstancePolicies},
	"PUT /instance/policies":                       {"instancepolicies.write", (*call).onInstance, true, "Policies could not be set", (*call).setInstancePolicies},
	"POST /import_token":                           {"importtoken.create", (*call).onInstance, true, "Import token could not be created", (*call).createImportToken},
	"GET /import_token":                            {"importtoken.read", (*call).onInstance, true, "Import token could not be retrieved", (*call).getImportToken},
}

// server is the API for the instances of one service.
type server struct {
	Config
	service string

	keys     records.Memo[key]
	material records.Memo[material]
}

// New serves the API to the instances of one service, KeyProtect or HPCS.
func New(service string, cfg Config) http.Handler {
	s := &server{Config: cfg, service: service}
	r := chi.NewRouter()
	r.Use(correlate)
	for pattern, op := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		r.Method(method, "/api/v2"+path, s.serve(op))
	}
	// The older form of the actions, POST /keys/{key}?action=wrap.
	r.Post("/api/v2/keys/{key}", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("action")
		op, ok := operations["POST /keys/{key}/actions/"+name]
		if name == "restore" {
			op, ok = operations["POST /keys/{key}/restore"], true
		}
		if !ok {
			s.refuse(w, r, "Action could not be performed", queryError("action", "The action is unknown."))
			return
		}
		s.serve(op).ServeHTTP(w, r)
	})
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { s.refuse(w, r, "", errNotFoundPath) })
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) { s.refuse(w, r, "", errMethod) })
	return r
}

// correlate gives every answer a Correlation-Id: the request's own if that is a UUID, else a new one.
func correlate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := uuid.Parse(r.Header.Get("Correlation-Id"))
		if err != nil {
			id = uuid.New()
		}
		w.Header().Set("Correlation-Id", id.String())
		next.ServeHTTP(w, r)
	})
}

// serve runs an operation: header, token and body are checked, then everything else happens in one
// transaction, and only then the answer is written. Reads never wait for writes.
func (s *server) serve(op operation) http.HandlerFunc {
	transaction := s.DB.View
	if op.write {
		transaction = s.DB.Update
	}
	return func(w http.ResponseWriter, r *http.Request) {
		var a answer
		c, err := s.newCall(w, r)
		if err == nil {
			err = transaction(func(tx *bbolt.Tx) (err error) {
				if err := s.enter(r, c, tx, op); err != nil {
					return err
				}
				a, err = op.do(c)
				return err
			})
		}
		if err != nil {
			s.refuse(w, r, op.fault, err)
			return
		}
		if a.total != nil {
			w.Header().Set("Key-Total", itoa(*a.total))
		}
		if a.body == nil {
			w.WriteHeader(a.status)
			return
		}
		jsonhttp.Write(w, a.status, a.body)
	}
}

// newCall checks what needs no data: the instance header's form, the token, the body's size.
func (s *server) newCall(w http.ResponseWriter, r *http.Request) (*call, error) {
	if !uuidPattern.MatchString(strings.ToLower(r.Header.Get("Bluemix-Instance"))) {
		return nil, errNoInstance
	}
	by, err := s.Caller(r)
	switch {
	case errors.Is(err, ErrTokenUnreadable):
		return nil, errBearer
	case err != nil:
		return nil, errUnauthorized
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return nil, bodyError("The body could not be read or is too large.")
	}
	body = bytes.TrimSpace(body)
	if bytes.Equal(body, []byte("null")) { // keyprotect-go-client sends this for no body
		body = nil
	}
	c := &call{server: s, now: s.Now().UTC(), by: by, ring: r.Header.Get("X-Kms-Key-Ring"), query: r.URL.Query(), body: body}
	if prefer, ok := strings.CutPrefix(r.Header.Get("Prefer"), "return="); ok {
		c.prefer = prefer
	}
	c.param = func(name string) string { return jsonhttp.PathParam(r, name) }
	return c, nil
}

// enter finds the instance on this service's address and asks whether the caller may do the
// operation there. Whatever is missing, the answer is the same.
func (s *server) enter(r *http.Request, c *call, tx *bbolt.Tx, op operation) error {
	in, err := s.Instance(tx, strings.ToLower(r.Header.Get("Bluemix-Instance")))
	if errors.Is(err, ErrNoInstance) || err == nil && in.Service != s.service {
		return errUnauthorized
	}
	if err != nil {
		return err
	}
	if in.Uninitialized {
		return errUninitialized
	}
	c.tx, c.in = tx, in
	c.may = func(keyRing, key string) (bool, error) {
		return s.May(r.Context(), tx, Access{c.by, op.action, in, keyRing, key})
	}
	return op.where(c)
}

// permitted is errUnauthorized unless the caller may act there.
func (c *call) permitted(keyRing, key string) error {
	ok, err := c.may(keyRing, key)
	if err == nil && !ok {
		return errUnauthorized
	}
	return err
}

func (c *call) onInstance() error { return c.permitted("", "") }

// inTargetRing is about the key ring that a new key goes to.
func (c *call) inTargetRing() error {
	if c.ring == "" {
		c.ring = defaultRing
	}
	return c.permitted(c.ring, "")
}

// inSomeRing is about the key ring of the header, or without one about any ring: what lists shows only
// what is in permitted ones.
func (c *call) inSomeRing() error {
	if c.ring != "" {
		return c.permitted(c.ring, "")
	}
	may := false
	ask := func(r keyRing) error {
		ok, err := c.may(r.ID, "")
		may = may || ok
		return err
	}
	if err := errors.Join(ask(keyRing{ID: defaultRing}), each(c, bucketRings, ask)); err != nil {
		return err
	}
	if !may {
		return errUnauthorized
	}
	return nil
}

// onKey finds the key that the path names by id or alias, in the key ring of the header if there is
// one. That there is no such key is only told to who could have used it.
func (c *call) onKey() error {
	id := c.param("key")
	if !uuidPattern.MatchString(id) {
		id = cmp.Or(c.aliasOwner(id), id)
	}
	k, err := remembered(c, &c.server.keys, bucketKeys, id)
	if errors.Is(err, records.ErrNone) || err == nil && (k.purged(c.now) || c.ring != "" && c.ring != k.Ring) {
		if err := c.permitted(c.ring, ""); err != nil {
			return err
		}
		return errKeyNotFound
	}
	if err != nil {
		return err
	}
	c.key = k
	return c.permitted(k.Ring, k.ID)
}

// bucket is the part of a bucket that belongs to the call's instance; nil when nothing was ever put
// there.
func (c *call) bucket(name string) *bbolt.Bucket {
	return c.tx.Bucket([]byte(name)).Bucket([]byte(c.in.GUID))
}

// grown is bucket for writing: it is made when it is not there.
func (c *call) grown(name string) (*bbolt.Bucket, error) {
	return c.tx.Bucket([]byte(name)).CreateBucketIfNotExists([]byte(c.in.GUID))
}

func (c *call) put(name, id string, v any) error {
	b, err := c.grown(name)
	if err != nil {
		return err
	}
	return records.Put(b, id, v)
}

func (c *call) drop(name, id string) error {
	b, err := c.grown(name)
	if err != nil {
		return err
	}
	return b.Delete([]byte(id))
}

// load reads one record of the call's instance; records.ErrNone when there is none.
func load[T any](c *call, name, id string) (v T, err error) {
	if b := c.bucket(name); b != nil {
		return records.Get[T](b, id)
	}
	return v, records.ErrNone
}

// remembered is load for records that are read often; what it returns must not be changed.
func remembered[T any](c *call, memo *records.Memo[T], name, id string) (v T, err error) {
	if b := c.bucket(name); b != nil {
		return memo.Get(b, id)
	}
	return v, records.ErrNone
}

// each calls f with every record of the call's instance in the order of their ids.
func each[T any](c *call, name string, f func(T) error) error {
	if b := c.bucket(name); b != nil {
		return records.Each(b, f)
	}
	return nil
}

// metadata heads every collection of the API; Total counts the resources of this answer alone.
type metadata struct {
	CollectionType   string `json:"collectionType"`
	CollectionTotal  int    `json:"collectionTotal"`
	TotalCount       *int   `json:"totalCount,omitempty"`
	IncompleteSearch bool   `json:"incompleteSearch,omitempty"`
}

// envelope is the shape of every answer but those of wrap, unwrap and rewrap.
type envelope[T any] struct {
	Metadata  metadata `json:"metadata"`
	Resources []T      `json:"resources"`
}

func mediaType(thing string) string { return "application/vnd.ibm.kms." + thing + "+json" }

func collection[T any](thing string, resources []T) envelope[T] {
	if resources == nil {
		resources = []T{}
	}
	return envelope[T]{metadata{CollectionType: mediaType(thing), CollectionTotal: len(resources)}, resources}
}
