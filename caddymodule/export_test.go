package caddymodule

import (
	"encoding/json"
	"fmt"
)

// SourceIDs returns the pool ids of an app's sources, by name: two configs
// with the same id share one running source.
func (a *App) SourceIDs() map[string]string {
	ids := make(map[string]string, len(a.built))
	for name, src := range a.built {
		ids[name] = src.id
	}
	return ids
}

// Effective tells what a transport does, as far as its settings say it.
func (t *Transport) Effective() string {
	written := *t
	written.Origin = nil
	text, err := json.Marshal(&written)
	if err != nil {
		return err.Error()
	}
	e := t.engine
	out := fmt.Sprintf("%s %q", text, e.Remove)
	for _, in := range e.Inject {
		out += fmt.Sprintf(" %q %q %q %q %q", in.Header, in.Query, in.Cookie, in.Value, in.Template.Variables())
	}
	return out + fmt.Sprintf(" %+v %+v %+v %d %v %q", e.AuthFailure, t.callers, e.Breakers.Settings(), e.ReplayBody, t.schemeKnown, t.keys.names)
}

// Effective is the same of a login.
func (tl *TokenLogin) Effective() string {
	return fmt.Sprintf("%s %s %+v %q %v", tl.Source, tl.source.GrantType(), tl.callers, tl.keys.names, tl.source.logins != nil)
}

// Effective is the same of a readiness handler.
func (tr *TokenReadiness) Effective() string { return fmt.Sprintf("%+v", tr.callers) }
