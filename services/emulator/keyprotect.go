package emulator

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
)

// maxBodyBytes bounds every request body of the Key Protect API: room for a ciphertext of the
// largest plaintext beside the largest additional authenticated data.
const maxBodyBytes = 256 << 10

// defaultRing is the key ring every instance has; it is not stored.
const defaultRing = "default"

// call is one request to the Key Protect API, past the checks that all calls share. It runs in one
// transaction, which is on disk before its answer is written.
type call struct {
	tx     *txn
	now    time.Time
	in     instance
	by     string // IAM id
	ring   string // X-Kms-Key-Ring; empty: any
	prefer string // "minimal", "representation" or empty
	query  url.Values
	param  func(string) string // of the path
	body   []byte
}

// answer is the status of a success, its body (nil: none) and Key-Total (nil: absent).
type answer struct {
	status int
	body   any
	total  *int
}

// operation is one call of the API: the action it needs, what its errors say came to nothing,
// whether it changes anything, and its code.
type operation struct {
	action action
	fault  string
	write  bool
	do     func(*call) (answer, error)
}

// operations by method and path below /api/v2 (Key Protect API v2).
var operations = map[string]operation{
	"POST /keys":                       {"secrets.create", "Key could not be created", true, (*call).createKey},
	"GET /keys":                        {"secrets.list", "Keys could not be retrieved", false, (*call).listKeys},
	"HEAD /keys":                       {"secrets.head", "Keys could not be counted", false, (*call).countKeys},
	"GET /keys/{key}":                  {"secrets.read", "Key could not be retrieved", false, (*call).getKey},
	"GET /keys/{key}/metadata":         {"secrets.readmetadata", "Key metadata could not be retrieved", false, (*call).getMetadata},
	"GET /keys/{key}/versions":         {"secrets.listkeyversions", "Key versions could not be retrieved", false, (*call).listVersions},
	"DELETE /keys/{key}":               {"secrets.delete", "Key could not be deleted", true, (*call).deleteKey},
	"POST /keys/{key}/restore":         {"secrets.restore", "Key could not be restored", true, (*call).restoreKey},
	"POST /keys/{key}/actions/wrap":    {"secrets.wrap", "Key could not be used to wrap", false, (*call).wrap},
	"POST /keys/{key}/actions/unwrap":  {"secrets.unwrap", "Key could not be used to unwrap", false, (*call).unwrap},
	"POST /keys/{key}/actions/rewrap":  {"secrets.rewrap", "Key could not be used to rewrap", false, (*call).rewrap},
	"POST /keys/{key}/actions/rotate":  {"secrets.rotate", "Key could not be rotated", true, (*call).rotateKey},
	"POST /keys/{key}/actions/disable": {"secrets.disable", "Key could not be disabled", true, (*call).disableKey},
	"POST /keys/{key}/actions/enable":  {"secrets.enable", "Key could not be enabled", true, (*call).enableKey},
	"GET /key_rings":                   {"keyrings.list", "Key rings could not be retrieved", false, (*call).listRings},
	"POST /key_rings/{ring}":           {"keyrings.create", "Key ring could not be created", true, (*call).createRing},
}

// keyProtectHandler serves the Key Protect API v2 to the instances of one service.
func (e *Emulator) keyProtectHandler(service string) http.Handler {
	r := chi.NewRouter()
	r.Use(e.calls.record(service, e.now), correlate)
	for pattern, op := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		r.Method(method, "/api/v2"+path, e.keyProtectCall(service, op))
	}
	// The older form of the actions, POST /keys/{key}?action=wrap.
	r.Post("/api/v2/keys/{key}", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("action")
		op, ok := operations["POST /keys/{key}/actions/"+name]
		if name == "restore" {
			op, ok = operations["POST /keys/{key}/restore"], true
		}
		if !ok {
			e.writeKeyProtectError(w, r, "Action could not be performed", queryError("action", "The action is unknown."))
			return
		}
		e.keyProtectCall(service, op).ServeHTTP(w, r)
	})
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { e.writeKeyProtectError(w, r, "", errNotFoundPath) })
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) { e.writeKeyProtectError(w, r, "", errMethod) })
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

// keyProtectCall runs an operation: header, token and body are checked, then everything else
// happens in one transaction, and only then the answer is written.
func (e *Emulator) keyProtectCall(service string, op operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var a answer
		c, err := e.newCall(w, r)
		if err == nil {
			err = e.store.run(op.write, func(tx *txn) error {
				c.tx = tx
				if err := c.authorize(service, r.Header.Get("Bluemix-Instance"), op.action); err != nil {
					return err
				}
				var err error
				a, err = op.do(c)
				return err
			})
		}
		if err != nil {
			e.writeKeyProtectError(w, r, op.fault, err)
			return
		}
		if a.total != nil {
			w.Header().Set("Key-Total", itoa(*a.total))
		}
		if a.body == nil {
			w.WriteHeader(a.status)
			return
		}
		writeJSON(w, a.status, a.body)
	}
}

// newCall checks what needs no data: the instance header's form, the token, the body's size.
func (e *Emulator) newCall(w http.ResponseWriter, r *http.Request) (*call, error) {
	if !uuidPattern.MatchString(strings.ToLower(r.Header.Get("Bluemix-Instance"))) {
		return nil, errNoInstance
	}
	by, err := e.signer.caller(r)
	switch {
	case errors.Is(err, errTokenUnreadable):
		return nil, errBearer
	case err != nil:
		return nil, errUnauthorized
	}
	setCaller(r, by)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return nil, bodyError("The body could not be read or is too large.")
	}
	body = bytes.TrimSpace(body)
	if bytes.Equal(body, []byte("null")) { // keyprotect-go-client sends this for no body
		body = nil
	}
	c := &call{now: e.now().UTC(), by: by, ring: r.Header.Get("X-Kms-Key-Ring"), query: r.URL.Query(), body: body}
	if prefer, ok := strings.CutPrefix(r.Header.Get("Prefer"), "return="); ok {
		c.prefer = prefer
	}
	c.param = func(name string) string { return pathParam(r, name) }
	return c, nil
}

// pathParam is a path segment, decoded once.
func pathParam(r *http.Request, name string) string {
	v := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return v
	}
	decoded, err := url.PathUnescape(v)
	if err != nil {
		return v
	}
	return decoded
}

// authorize finds the instance on this service's address and the caller's roles on it. Whatever is
// missing, the answer is the same.
func (c *call) authorize(service, header string, a action) error {
	in, err := load[instance](c.tx.bucket(bucketInstances), strings.ToLower(header))
	if errors.Is(err, errNoRecord) || err == nil && in.Service != service {
		return errUnauthorized
	}
	if err != nil {
		return err
	}
	who, err := load[principal](c.tx.bucket(bucketPrincipals), c.by)
	if errors.Is(err, errNoRecord) || err == nil && !who.may(a, in) {
		return errUnauthorized
	}
	c.in = in
	return err
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
