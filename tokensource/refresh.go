package tokensource

import (
	"hash/maphash"
	"sync/atomic"
)

// keptRefresh is a token's refresh token. With thousands of keys it is half of what
// a token takes in memory, and only a renewal needs it, which reads the record
// anyway. So it is forgotten once the store has it, where no more than one token
// call hangs on it: see [Source.forgets]. This file has its fields and all that is
// done with them.
type keptRefresh struct {
	// sum tells the refresh token from another, also when it is forgotten; 0: there
	// is none.
	sum  uint64
	text atomic.Pointer[string] // nil: none, or forgotten
	// forgettable: it is forgotten when the store has it for certain.
	forgettable bool
}

// refreshSeed is this process's own: a sum says nothing to others.
var refreshSeed = maphash.MakeSeed()

// sumOf tells one refresh token from another; 0: it is empty.
func sumOf(refresh string) uint64 {
	if refresh == "" {
		return 0
	}
	return maphash.String(refreshSeed, refresh) | 1
}

// set is called before anybody else has the token.
func (k *keptRefresh) set(refresh string) {
	k.sum = sumOf(refresh)
	if k.text.Store(nil); k.is() {
		k.text.Store(&refresh)
	}
}

// take makes it the same as another's, before anybody else has the token.
func (k *keptRefresh) take(other *keptRefresh) {
	k.sum, k.forgettable = other.sum, other.forgettable
	k.text.Store(other.text.Load())
}

// mayForget has it forgotten later, and never given to anybody. It is called
// before anybody else has the token.
func (k *keptRefresh) mayForget() { k.forgettable = true }

// is reports whether there is one, be it forgotten.
func (k *keptRefresh) is() bool { return k.sum != 0 }

// known reports whether there is one, and it is in memory.
func (k *keptRefresh) known() bool { return k.text.Load() != nil }

// reveal returns it, or "" if there is none, or it is forgotten.
func (k *keptRefresh) reveal() string {
	if text := k.text.Load(); text != nil {
		return *text
	}
	return ""
}

// forget drops the text of one that may be forgotten.
func (k *keptRefresh) forget() {
	if k.forgettable {
		k.text.Store(nil)
	}
}

// recall brings back what was forgotten, if stored is that. A record may be older
// than the token: its refresh token may be used up, and is left alone.
func (k *keptRefresh) recall(stored string) {
	if k.is() && !k.known() && sumOf(stored) == k.sum {
		k.text.Store(&stored)
	}
}

// forgets reports whether the source keeps no refresh token in memory that the
// store has. It keeps those that are a person's consent: if the store is emptied,
// or falls back to an older state, the process writes them back. Those of a grant
// that can be repeated cost one more token call then.
func (s *Source) forgets() bool {
	return s.table != nil && s.store != nil && !s.grant.Interactive
}
