package control

import (
	"maps"
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"

	"github.com/kmip-for-vmware/kmip/services/control/events"
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

// EventRoutes returns the routes whose calls have a name in the record, sorted.
func EventRoutes() []string { return slices.Sorted(maps.Keys(events.Names)) }

// AdminRoutes returns what the admin listener routes besides its document,
// sorted.
func AdminRoutes() []string { return slices.Sorted(slices.Values(adminRoutes)) }
