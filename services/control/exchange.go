package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmip-for-vmware/kmip/api"
	"github.com/kmip-for-vmware/kmip/libs/iam"
	"github.com/kmip-for-vmware/kmip/libs/obs"
)

// maxURI is the longest request target in bytes.
const maxURI = 8000

// exchange is what is known of one request and its answer, for the access log
// and for error answers. It belongs to the request's goroutine.
type exchange struct {
	trace   string // X-Correlation-ID
	url     *url.URL
	accept  string // Accept, as sent
	caller  iam.Identity
	token   string // the caller's, verified; it goes into no log
	action  string // IAM action of the route
	failure error
}

type exchangeKey struct{}

// exchangeOf returns the exchange that observe put into every request.
func exchangeOf(ctx context.Context) *exchange {
	return ctx.Value(exchangeKey{}).(*exchange)
}

// newRequestSeconds returns the metric of the API listener.
func newRequestSeconds(reg prometheus.Registerer) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "kmip_control_request_seconds",
		Help:    "Time to answer a request of the customer API, by route and HTTP status.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
	}, []string{"route", "status"})
	reg.MustRegister(h)
	return h
}

// observe is the outermost layer below obs.WithRequestID: it turns a panic into
// an answer, counts, and writes one line per request. The line holds neither
// query nor headers nor body.
func observe(log *slog.Logger, seconds *prometheus.HistogramVec) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			x := &exchange{
				trace:  w.Header().Get(obs.CorrelationIDHeader),
				url:    &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery},
				accept: r.Header.Get("Accept"),
			}
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
			ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)

			defer func() {
				if p := recover(); p != nil {
					if p == http.ErrAbortHandler { //nolint:errorlint // the documented comparison
						panic(p)
					}
					err := fmt.Errorf("panic: %v\n%s", p, debug.Stack())
					if ww.Status() == 0 {
						fail(ww, r, err)
					}
					x.failure = err
				}
				record(log, seconds, r, ww, time.Since(began))
			}()
			if len(r.RequestURI) > maxURI {
				fail(ww, r, &httpError{
					answer:  answer{http.StatusRequestURITooLong, api.ErrorCodeURITooLong},
					message: fmt.Sprintf("The request target is longer than %d bytes.", maxURI),
				})
				return
			}
			next.ServeHTTP(ww, r)
		})
	}
}

// record writes the access log line and the metric of a finished request.
func record(log *slog.Logger, seconds *prometheus.HistogramVec, r *http.Request, ww middleware.WrapResponseWriter, took time.Duration) {
	x := exchangeOf(r.Context())
	pattern := routeOf(r)
	if _, known := routes[pattern]; !known && pattern != documentRoute {
		pattern = "unmatched"
	}
	seconds.WithLabelValues(pattern, strconv.Itoa(ww.Status())).Observe(took.Seconds())

	level := slog.LevelInfo
	fields := []slog.Attr{
		slog.String("request_id", obs.RequestID(r.Context())),
		slog.String("trace", x.trace),
		slog.String("route", pattern),
		slog.Int("status", ww.Status()),
		slog.Int("bytes", ww.BytesWritten()),
		slog.Float64("milliseconds", float64(took.Microseconds())/1000),
		slog.String("remote", r.RemoteAddr),
	}
	if x.caller.Account != "" {
		fields = append(fields, slog.String("account", x.caller.Account), slog.String("caller", x.caller.IAMID), slog.String("action", x.action))
	}
	if id := chi.URLParam(r, "id"); identifier.MatchString(id) {
		fields = append(fields, slog.String("instance", id))
	}
	if x.failure != nil {
		fields = append(fields, slog.String("error", x.failure.Error()))
		if ww.Status() >= http.StatusInternalServerError {
			level = slog.LevelError
		}
	}
	log.LogAttrs(r.Context(), level, "request", fields...)
}
