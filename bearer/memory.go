package bearer

import (
	"container/list"
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// memory remembers refusals of an API for a minute, so that a request that no new
// token cures does not cause a renewal each time. While the API refuses nothing,
// the memory is empty and costs each request one atomic load.
type memory struct {
	watching atomic.Int64 // how many entries there are: mostly none
	mu       sync.Mutex
	byName   map[memoryName]*list.Element
	order    list.List // of *remembered, the longest unchanged first
}

// memoryName names an entry. There are two kinds: one for a key, and one for a
// method and path with that key.
type memoryName struct {
	key     tokensource.Key
	request uint64 // a hash of method and path; 0: the entry is the key's
}

// remembered is an entry.
type remembered struct {
	name memoryName
	at   time.Time // when it last changed

	// In the entry of a method and path: if a token of this generation or a later
	// one is refused, the request is the cause.
	from uint64

	// In the entry of a key:

	uncured  time.Time // when a renewal last did not help a request
	blind    time.Time // when a token was last renewed for a request that could not be sent again
	replaced uint64    // the generation of the token which that renewal replaced
	accepted time.Time // when the API last accepted a token
	hasty    time.Time // when a young token was last replaced
	doubted  uint64    // the generation of a token that was refused while it was young
	hopeless bool      // the doubted token was refused later, too, when it was no longer young
}

const (
	// rememberFor is how long an entry is kept.
	rememberFor = time.Minute
	// acceptedLately is how old an acceptance may be to count as evidence that a
	// token works.
	acceptedLately = 10 * time.Second
	// maxRemembered bounds the entries. Each takes about 200 bytes.
	maxRemembered = 10_000
)

var memorySeed = maphash.MakeSeed()

// requestHash is a hash of a request's method and path. A path may name a user, so
// the memory does not keep it.
func requestHash(req *http.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(memorySeed)
	_, _ = h.WriteString(req.Method)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(req.URL.Path)
	return max(h.Sum64(), 1)
}

// recall adds to the evidence what is remembered of the key and of the request.
func (m *memory) recall(e *evidence, k tokensource.Key, req *http.Request, token *tokensource.Token, now time.Time) {
	if m.watching.Load() == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	if r := m.find(k, requestHash(req)); r != nil {
		e.uncured = token.Generation() >= r.from
	}
	if r := m.find(k, 0); r != nil {
		e.suspect = lately(now, r.uncured, rememberFor) && lately(now, r.accepted, acceptedLately)
		e.hasty = lately(now, r.hasty, rememberFor)
		e.hopeless = r.hopeless
	}
}

// lately reports whether a moment is no longer ago than within.
func lately(now, moment time.Time, within time.Duration) bool {
	return !moment.IsZero() && now.Sub(moment) < within
}

// notCured remembers that the API refuses the request with this token, while it may
// accept the token from other requests. renewed says that the token was renewed
// because of this request, so the renewal did not help it.
func (m *memory) notCured(k tokensource.Key, req *http.Request, token *tokensource.Token, renewed bool, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(k, requestHash(req), now).from = token.Generation()
	if !renewed {
		return
	}
	r := m.change(k, 0, now)
	r.uncured = now
	if token.Worked() {
		r.accepted = now
	}
}

// renewedBlindly remembers a renewal for a request that could not be sent again.
// Whether it helped shows only when the app sends the same method and path again.
// If the app uses a new path each time, that never shows. So a second such
// renewal within a minute counts as one that did not help.
func (m *memory) renewedBlindly(k tokensource.Key, req *http.Request, refused *tokensource.Token, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(k, requestHash(req), now).from = refused.Generation() + 1
	r := m.change(k, 0, now)
	if lately(now, r.blind, rememberFor) && refused.Generation() > r.replaced {
		r.uncured = now
	}
	r.blind, r.replaced = now, refused.Generation()
}

// doubt remembers that the API refused a young token.
func (m *memory) doubt(k tokensource.Key, token *tokensource.Token, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(k, 0, now).doubted = token.Generation()
}

// replacedYoung remembers that a young token was replaced after a refusal. Its
// successor is as young, so it is not replaced for the same reason again.
func (m *memory) replacedYoung(k tokensource.Key, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(k, 0, now).hasty = now
}

// hadItsTime remembers that the API refused a token that is no longer young. If the
// API refused the same token while it was young, the cause is not that the API is
// slow. That holds until the API accepts a token of this key.
func (m *memory) hadItsTime(k tokensource.Key, token *tokensource.Token, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.find(k, 0); r != nil && r.doubted == token.Generation() {
		m.change(k, 0, now).hopeless = true
	}
}

// accepted remembers that the API accepted a request's token. If the response was
// no error, the method and path have no fault of their own any more.
func (m *memory) accepted(k tokensource.Key, req *http.Request, status int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	if status < http.StatusBadRequest {
		m.forget(memoryName{k, requestHash(req)})
	}
	r := m.find(k, 0)
	if r == nil {
		return
	}
	r.accepted, r.hasty, r.doubted, r.hopeless = now, time.Time{}, 0, false
	if r.uncured.IsZero() && r.blind.IsZero() {
		m.forget(r.name)
	}
}

// cured remembers that a renewal helped: this key's refusals are about its tokens.
func (m *memory) cured(k tokensource.Key) {
	if m.watching.Load() == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(memoryName{key: k})
}

// find returns an entry, or nil. The caller holds m.mu.
func (m *memory) find(k tokensource.Key, request uint64) *remembered {
	if el := m.byName[memoryName{k, request}]; el != nil {
		return el.Value.(*remembered)
	}
	return nil
}

// change returns an entry to be changed, and makes it if there is none. If there
// are too many, the one that was not changed for the longest time goes. The
// caller holds m.mu.
func (m *memory) change(k tokensource.Key, request uint64, now time.Time) *remembered {
	m.sweep(now)
	name := memoryName{k, request}
	el := m.byName[name]
	if el == nil {
		if len(m.byName) >= maxRemembered {
			m.forget(m.order.Front().Value.(*remembered).name)
		}
		if m.byName == nil {
			m.byName = make(map[memoryName]*list.Element)
		}
		el = m.order.PushBack(&remembered{name: name})
		m.byName[name] = el
		m.watching.Store(int64(len(m.byName)))
	}
	m.order.MoveToBack(el)
	r := el.Value.(*remembered)
	r.at = now
	return r
}

// sweep removes entries that are too old. The caller holds m.mu.
func (m *memory) sweep(now time.Time) {
	for el := m.order.Front(); el != nil; el = m.order.Front() {
		r := el.Value.(*remembered)
		if now.Sub(r.at) < rememberFor {
			return
		}
		m.forget(r.name)
	}
}

// forget removes an entry. The caller holds m.mu.
func (m *memory) forget(name memoryName) {
	el := m.byName[name]
	if el == nil {
		return
	}
	m.order.Remove(el)
	delete(m.byName, name)
	m.watching.Store(int64(len(m.byName)))
}
