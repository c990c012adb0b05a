// Package obs is what operators see of a program: its log, its metrics, its
// health, and the ids that lead from one to the other.
package obs

import (
	"io"
	"log/slog"

	"github.com/google/uuid"
)

// Boot names this start of the program, in its log and in its records.
var Boot = uuid.NewString()

// NewLogger returns a logger of JSON lines. Every line names the service and
// this start of it (boot).
func NewLogger(w io.Writer, service string) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, nil)).With("service", service, "boot", Boot)
}
