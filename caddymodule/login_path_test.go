package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestLoginUnknownPath: a program that posts to a path which does not exist must
// not take Caddy's empty 200 for success. What somebody else answers is theirs.
func TestLoginUnknownPath(t *testing.T) {
	rig := newLoginRig(t, "")
	serve := func(next caddyhttp.HandlerFunc) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, "/tokens/logout", nil)
		req = req.WithContext(context.WithValue(req.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
		w := httptest.NewRecorder()
		if err := rig.ServeHTTP(w, req, next); err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := serve(func(http.ResponseWriter, *http.Request) error { return nil })
	if d := checkProblem(t, w.Code, w.Header(), w.Body); w.Code != http.StatusNotFound || d.Detail == "" {
		t.Errorf("nobody answers: %d %+v", w.Code, d)
	}
	w = serve(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.Write([]byte("theirs"))
		return err
	})
	if w.Code != http.StatusOK || w.Body.String() != "theirs" {
		t.Errorf("somebody answers: %d %s", w.Code, w.Body)
	}
	w = serve(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	if w.Code != http.StatusNoContent {
		t.Errorf("somebody answers without a body: %d", w.Code)
	}
}
