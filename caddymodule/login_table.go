package caddymodule

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// loginTable holds logins under secret texts, of which it keeps the hashes. It is
// bounded: whoever begins logins and never ends them pushes out the oldest ones of the
// same key, and not other people's.
type loginTable struct {
	logins map[loginID]*login
	order  []loginID // oldest first
	count  map[tokensource.Key]int
}

type loginID [sha256.Size]byte

const (
	// loginLife is how long a person may take, and how long a login link is valid.
	loginLife = 10 * time.Minute
	// maxLoginsOfKey and maxLogins bound the memory. If there are more, the oldest go.
	maxLoginsOfKey = 16
	maxLogins      = 10_000
)

// add keeps a login under a text, as of now.
func (lt *loginTable) add(text string, l *login) {
	if lt.logins == nil {
		lt.logins, lt.count = make(map[loginID]*login), make(map[tokensource.Key]int)
	}
	for len(lt.order) > 0 && (len(lt.order) >= maxLogins || time.Since(lt.logins[lt.order[0]].since) >= loginLife) {
		lt.remove(0)
	}
	if lt.count[l.key] >= maxLoginsOfKey {
		lt.remove(slices.IndexFunc(lt.order, func(id loginID) bool { return lt.logins[id].key == l.key }))
	}
	l.since = time.Now()
	id := loginID(sha256.Sum256([]byte(text)))
	lt.logins[id] = l
	lt.order = append(lt.order, id)
	lt.count[l.key]++
}

// get returns the login under a text; nil if there is none, or if it is too old.
func (lt *loginTable) get(text string) *login {
	l := lt.logins[loginID(sha256.Sum256([]byte(text)))]
	if l == nil || time.Since(l.since) >= loginLife {
		return nil
	}
	return l
}

// take is get, and removes the login.
func (lt *loginTable) take(text string) *login {
	l := lt.get(text)
	id := loginID(sha256.Sum256([]byte(text)))
	if i := slices.Index(lt.order, id); i >= 0 {
		lt.remove(i)
	}
	return l
}

func (lt *loginTable) remove(i int) {
	id := lt.order[i]
	lt.order = slices.Delete(lt.order, i, i+1)
	key := lt.logins[id].key
	delete(lt.logins, id)
	if lt.count[key]--; lt.count[key] == 0 {
		delete(lt.count, key)
	}
}
