package control

import (
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"
)

// Routes returns what the customer listener routes, sorted.
func Routes() []string {
	var all []string
	handler := newAPI(&handlers{}, func(next http.Handler) http.Handler { return next }, nil)
	_ = chi.Walk(handler.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		all = append(all, method+" "+route)
		return nil
	})
	slices.Sort(all)
	return all
}

// TableRoutes returns the keys of the table of routes, sorted.
func TableRoutes() []string {
	var all []string
	for key := range routes {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// AdminRoutes returns what the admin listener routes, sorted.
func AdminRoutes() []string {
	all := append([]string{"GET /openapi.yaml"}, adminRoutes...)
	slices.Sort(all)
	return all
}
