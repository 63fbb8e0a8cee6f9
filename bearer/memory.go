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

// memory remembers for a minute what refusals have taught of an API, so that one
// that no new token cures does not cost a renewal each time. It is empty while
// all is well, and then costs a request one atomic load.
type memory struct {
	watching atomic.Int64 // how much is remembered: mostly nothing
	mu       sync.Mutex
	byName   map[memoryName]*list.Element
	order    list.List // of *remembered, the longest unchanged first
}

// memoryName names what is remembered: of a key, or of one method and path with
// that key.
type memoryName struct {
	key     tokensource.Key
	request uint64 // a hash of method and path; 0: of the key
}

// remembered is one thing that is remembered.
type remembered struct {
	name memoryName
	at   time.Time // when it last changed

	// Of a request: the generation of the first token whose refusal is the
	// request's own fault, if it is refused.
	from uint64

	// Of a key:

	uncured  time.Time // when a renewal did not help a request
	blind    time.Time // when a renewal was made for a request that could not be sent again
	replaced uint64    // the generation of the token that it was to replace
	accepted time.Time // when the API last accepted a token
	hasty    time.Time // when a young token was replaced
	doubted  uint64    // the generation of a token that was refused when it was young
	hopeless bool      // that token was refused when it was no longer young, too
}

const (
	// rememberFor is for how long something is remembered.
	rememberFor = time.Minute
	// acceptedLately is how old an acceptance may be that speaks for a token.
	acceptedLately = 10 * time.Second
	// maxRemembered bounds what is remembered. Each takes some 200 bytes.
	maxRemembered = 10_000
)

var memorySeed = maphash.MakeSeed()

// requestHash stands for a request's method and path, so that neither is kept.
func requestHash(req *http.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(memorySeed)
	_, _ = h.WriteString(req.Method)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(req.URL.Path)
	return max(h.Sum64(), 1)
}

// recall fills in what is remembered of the key, and of the request with this
// token.
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

func lately(now, moment time.Time, within time.Duration) bool {
	return !moment.IsZero() && now.Sub(moment) < within
}

// notCured notes that the request is refused with a token that others may be
// accepted with. renewed says that this token was to cure it.
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

// renewedBlindly notes a renewal for a request that could not be sent again: what
// it was good for shows when the same is sent next. The second in a minute counts
// as one that did not help, for the paths may differ each time.
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

// doubt notes that a token was refused when it was young.
func (m *memory) doubt(k tokensource.Key, token *tokensource.Token, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(k, 0, now).doubted = token.Generation()
}

// replacedYoung notes that a token is replaced that was refused when it was young.
func (m *memory) replacedYoung(k tokensource.Key, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(k, 0, now).hasty = now
}

// hadItsTime notes that a token is refused that is no longer young. If it was
// refused when it was young as well, it is not the API's slowness, until the API
// accepts one.
func (m *memory) hadItsTime(k tokensource.Key, token *tokensource.Token, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.find(k, 0); r != nil && r.doubted == token.Generation() {
		m.change(k, 0, now).hopeless = true
	}
}

// accepted notes that the API accepted a request's token. If it was answered
// well, there is nothing about the request itself.
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

// cured notes that a renewal helped: refusals are about tokens, after all.
func (m *memory) cured(k tokensource.Key) {
	if m.watching.Load() == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(memoryName{key: k})
}

// find returns what is remembered under a name; nil: nothing. The caller holds
// m.mu.
func (m *memory) find(k tokensource.Key, request uint64) *remembered {
	if el := m.byName[memoryName{k, request}]; el != nil {
		return el.Value.(*remembered)
	}
	return nil
}

// change returns what is remembered under a name, to be changed. The caller
// holds m.mu.
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

// sweep forgets what is too old. The caller holds m.mu.
func (m *memory) sweep(now time.Time) {
	for el := m.order.Front(); el != nil; el = m.order.Front() {
		r := el.Value.(*remembered)
		if now.Sub(r.at) < rememberFor {
			return
		}
		m.forget(r.name)
	}
}

// forget forgets what is remembered under a name. The caller holds m.mu.
func (m *memory) forget(name memoryName) {
	el := m.byName[name]
	if el == nil {
		return
	}
	m.order.Remove(el)
	delete(m.byName, name)
	m.watching.Store(int64(len(m.byName)))
}
