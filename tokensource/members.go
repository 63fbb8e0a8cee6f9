package tokensource

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// What is kept of the responses that tokens come in, besides the tokens: the first
// few short members, and those that somebody has asked for.

// members is what is kept of one response. It is never changed, for the tokens of
// many users share it.
type members struct {
	tokenType string
	fields    []tokenendpoint.Field
	// lacks are the members that were looked for, see [Source.Keep], and that the
	// response had not.
	lacks []string
}

var noMembers members

func (m *members) equal(other *members) bool {
	return m.tokenType == other.tokenType && slices.Equal(m.fields, other.fields) && slices.Equal(m.lacks, other.lacks)
}

// commonMembers has users whose responses said the same share it: most have the
// same scope. Its zero value is ready for use.
type commonMembers struct{ last atomic.Pointer[members] }

func (c *commonMembers) share(m *members) *members {
	if last := c.last.Load(); last != nil && last.equal(m) {
		return last
	}
	c.last.Store(m)
	return m
}

// keptNames are the members that were asked for. Its zero value is ready for use.
type keptNames struct {
	mu   sync.Mutex
	list atomic.Pointer[[]string]
}

// names lists them.
func (k *keptNames) names() []string {
	if list := k.list.Load(); list != nil {
		return *list
	}
	return nil
}

// add adds names, and reports whether one is new.
func (k *keptNames) add(names []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.names()
	before := len(all)
	for _, name := range names {
		if !slices.Contains(all, name) {
			all = append(slices.Clip(all), name)
		}
	}
	k.list.Store(&all)
	return len(all) > before
}

// Keep has members of responses kept with their tokens, whatever their size, for
// [Token.Field]. They are named by paths, such as tenant_id, user.tenant,
// tenants.0 or id_token. A member that a refresh's response does not repeat stays
// what it was. A token that was obtained before its source knew of a name becomes
// due, if nobody is needed to renew it. Names are never forgotten.
func (s *Source) Keep(names ...string) {
	if !s.kept.add(names) {
		return
	}
	now := time.Now()
	s.each(func(e *entry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if t := s.dueForMembers(e.tok, now); t != e.tok {
			e.replace(t)
			if e.flight == nil && !e.evicted {
				s.schedule(e, now)
			}
		}
	})
}

// dueForMembers returns the token, or a copy that is due if it was obtained when
// a name that is kept now was not known.
func (s *Source) dueForMembers(t *Token, now time.Time) *Token {
	if t == nil || stateAt(now, t) != fresh || !s.CanRenew(t) {
		return t
	}
	for _, name := range s.kept.names() {
		if _, ok := t.Field(name); !ok && !slices.Contains(t.members.lacks, name) {
			c := t.copy()
			c.orphan.Store(t.orphan.Load())
			c.dueAt(now)
			return c
		}
	}
	return t
}

// keepMembers takes the members that are kept out of a response. last is the
// token that was refreshed, nil if none was. What is missing is told of once.
func (t *Token) keepMembers(s *Source, res *tokenendpoint.Response, last *Token) {
	m := &members{tokenType: res.TokenType, fields: res.Fields}
	for _, name := range s.kept.names() {
		if slices.ContainsFunc(m.fields, func(f tokenendpoint.Field) bool { return f.Name == name }) {
			continue
		}
		value, ok := res.Member(name)
		if !ok && last != nil {
			value, ok = last.Field(name)
		}
		if ok {
			m.fields = append(slices.Clip(m.fields), tokenendpoint.Field{Name: name, Value: value})
			continue
		}
		m.lacks = append(m.lacks, name)
		if s.warned.first("member " + name) {
			s.log.Warn("the response has no member that is referred to: what is made of it is left out", "source", s.cfg.Name, "member", name)
		}
	}
	t.members = s.common.share(m)
}

// once remembers what was told already. Its zero value is ready for use.
type once struct {
	mu   sync.Mutex
	told map[string]bool
}

// first reports whether it is asked for a name for the first time.
func (o *once) first(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.told[name] {
		return false
	}
	if o.told == nil {
		o.told = make(map[string]bool)
	}
	o.told[name] = true
	return true
}

// expiryUnreadable tells, once, of an expiry that could not be read.
func (s *Source) expiryUnreadable(e tokenendpoint.Expiry) {
	if s.warned.first("expiry") {
		s.log.Warn("the response says when its token expires, and that cannot be read: `lifetime` is assumed", "source", s.cfg.Name,
			"path", e.Path, "found", e.Found, "lifetime", s.cfg.Lifetime.Default, "look_at", "expires_in and its kind")
	}
}
