package emulator

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// internal logs what a client must not see and answers 500 without it.
func (e *Emulator) internal(w http.ResponseWriter, r *http.Request, what string, err error) {
	e.log.Error("request failed", "what", what, "method", r.Method, "error", err)
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}

// maxCalls is how many of the latest calls are remembered; maxCallPath cuts their paths.
const (
	maxCalls    = 1000
	maxCallPath = 512
)

// callRecord is one request that a service answered: neither query, header, body nor secret is kept.
type callRecord struct {
	Time      time.Time `json:"time"`
	Service   string    `json:"service"` // iam, resource-controller, kms, hs-crypto
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Status    int       `json:"status"`
	Instance  string    `json:"instance,omitempty"`  // Bluemix-Instance header, when it is a UUID
	Principal string    `json:"principal,omitempty"` // IAM id, when the request proved one
}

// callLog is a ring of the latest calls, oldest first when read.
type callLog struct {
	mu    sync.Mutex
	calls []callRecord
	next  int // where the next call goes once the ring is full
}

func newCallLog() *callLog { return &callLog{calls: make([]callRecord, 0, maxCalls)} }

func (l *callLog) add(c callRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.calls) < maxCalls {
		l.calls = append(l.calls, c)
		return
	}
	l.calls[l.next] = c
	l.next = (l.next + 1) % maxCalls
}

func (l *callLog) latest() []callRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append(make([]callRecord, 0, len(l.calls)), l.calls[l.next:]...), l.calls[:l.next]...)
}

type callerKey struct{}

// setCaller tells the call log who the request proved to be.
func setCaller(r *http.Request, iamID string) {
	if p, ok := r.Context().Value(callerKey{}).(*string); ok {
		*p = iamID
	}
}

// record is middleware that adds every answered request of a service to the log.
func (l *callLog) record(service string, now func() time.Time) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := callRecord{Time: now().UTC(), Service: service, Method: r.Method, Path: r.URL.Path}
			c.Path = c.Path[:min(len(c.Path), maxCallPath)]
			if id := r.Header.Get("Bluemix-Instance"); uuidPattern.MatchString(id) {
				c.Instance = id
			}
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, &c.Principal))
			answer := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
			next.ServeHTTP(answer, r)
			c.Status = answer.Status()
			l.add(c) // the server completes the answer after this: who has it finds its call here
		})
	}
}

// adminHandler serves the emulator's own address: health, and what the services were asked.
func (e *Emulator) adminHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) {
		jsonhttp.Write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	r.Get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := e.store.view(func(*txn) error { return nil }); err != nil {
			e.internal(w, r, "readyz", err)
			return
		}
		jsonhttp.Write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	r.Get("/emulator/v1/calls", func(w http.ResponseWriter, _ *http.Request) {
		jsonhttp.Write(w, http.StatusOK, map[string]any{"calls": e.calls.latest()})
	})
	return r
}
