package knobs

import (
	"io"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// maxBodyBytes bounds what a PUT of a knob may send.
const maxBodyBytes = 1 << 20

// Routes adds every knob below /emulator/v1.
func (k *Knobs) Routes(r chi.Router) {
	for name, knob := range k.knobs {
		at := "/emulator/v1/" + name
		show := func(w http.ResponseWriter, r *http.Request) {
			raw, err := knob.show(r.Context(), r.URL.Query())
			if err != nil {
				refuse(w, err)
				return
			}
			jsonhttp.Write(w, http.StatusOK, raw)
		}
		r.Get(at, show)
		r.Put(at, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
			if err == nil {
				err = knob.set(body)
			}
			if err != nil {
				refuse(w, err)
				return
			}
			show(w, r)
		})
		r.Delete(at, func(w http.ResponseWriter, _ *http.Request) {
			if err := knob.clear(); err != nil {
				refuse(w, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
}

// refuse answers a knob's problem; nothing was changed.
func refuse(w http.ResponseWriter, err error) {
	jsonhttp.Write(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
}
