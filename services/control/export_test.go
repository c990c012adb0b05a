package control

import (
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"
)

// Routes returns what the customer listener routes besides its document,
// sorted.
func Routes() []string {
	var all []string
	handler := newAPI(&handlers{}, func(next http.Handler) http.Handler { return next }, &gate{})
	_ = chi.Walk(handler.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method+" "+route != documentRoute {
			all = append(all, method+" "+route)
		}
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

// Action returns the action that a route of the table asks for.
func Action(route string) string { return routes[route].action }

// AdminRoutes returns what the admin listener routes besides its document,
// sorted.
func AdminRoutes() []string { return slices.Sorted(slices.Values(adminRoutes)) }
