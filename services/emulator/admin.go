package emulator

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// adminHandler serves the emulator's own address: health, and the knobs.
func (e *Emulator) adminHandler() http.Handler {
	r := chi.NewRouter()
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) {
		jsonhttp.Write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	r.Get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := e.db.View(func(*bbolt.Tx) error { return nil }); err != nil {
			jsonhttp.Internal(e.log, w, r, err)
			return
		}
		jsonhttp.Write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	e.knobs.Routes(r)
	return r
}
