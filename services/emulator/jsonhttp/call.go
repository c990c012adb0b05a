package jsonhttp

import (
	"io"
	"log/slog"
	"net/http"
)

// maxBodyBytes bounds every body that API.Serve reads.
const maxBodyBytes = 256 << 10

// Call is one request of a proved caller, with its body read.
type Call struct {
	*http.Request
	By   string // IAM id
	Body []byte
}

// Answer is a success: status, ETag (empty: none) and body (nil: none).
type Answer struct {
	Status int
	ETag   string
	Body   any
}

// API is what the calls of one API have in common: who calls, and how it says that something is wrong.
type API struct {
	Caller   func(*http.Request) (iamID string, err error)
	NoCaller error // for a request that proves nobody
	BadBody  error // for a body that is too large or cannot be read
	// WriteError answers with an error of the API's own kind and reports whether err is one.
	WriteError func(w http.ResponseWriter, err error) bool
	Log        *slog.Logger // told of all other errors
}

// Serve runs do for a proved caller, and writes its answer or error.
func (a API) Serve(do func(*Call) (Answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		got, err := a.run(w, r, do)
		if err != nil {
			if !a.WriteError(w, err) {
				Internal(a.Log, w, r, err)
			}
			return
		}
		if got.ETag != "" {
			w.Header().Set("ETag", got.ETag)
		}
		if got.Body == nil {
			w.WriteHeader(got.Status)
			return
		}
		Write(w, got.Status, got.Body)
	}
}

func (a API) run(w http.ResponseWriter, r *http.Request, do func(*Call) (Answer, error)) (Answer, error) {
	by, err := a.Caller(r)
	if err != nil {
		return Answer{}, a.NoCaller
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return Answer{}, a.BadBody
	}
	return do(&Call{r, by, body})
}

// Internal logs what a client must not see and answers 500 without it.
func Internal(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) {
	log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}
