package emulator

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// internal logs what a client must not see and answers 500 without it.
func (e *Emulator) internal(w http.ResponseWriter, r *http.Request, what string, err error) {
	e.log.Error("request failed", "what", what, "method", r.Method, "error", err)
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}

// adminHandler serves the emulator's own address: health, and the knobs.
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
	e.knobs.Routes(r)
	return r
}
