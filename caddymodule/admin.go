package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is the part of Caddy's admin API under /token_sources/. Its responses hold
// no secret and name no key.
//
//   - GET readiness says whether requests are served: 503 while a source cannot
//     serve, else 200.
//   - GET intercepted lists whose calls came to bearer_intercept.
type adminAPI struct{}

const adminPath = "/token_sources/"

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.token_sources",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: caddy.AdminHandlerFunc(a.serve)}}
}

// serve asks the running config each time: Caddy starts the admin endpoint
// before a config is known to load, and keeps it when one does not.
func (adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, adminPath)
	if name != "readiness" && name != "intercepted" {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("expected " + adminPath + "readiness or " + adminPath + "intercepted")}
	}
	if !readinessMethod(r.Method) {
		w.Header().Set("Allow", readinessMethods)
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("expected " + readinessMethods)}
	}
	if name == "intercepted" {
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(interceptedAnswer{Intercepted: seenProxy.list()})
	}
	ready, err := findReadiness(caddy.ActiveContext())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	return ready.write(w)
}

// Interface guard
var _ caddy.AdminRouter = adminAPI{}
