package caddymodule

import (
	"cmp"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Some clients do not obey HTTPS_PROXY and call the provider directly, without a token.
// They fail at the provider, and nothing here sees it. So a person has to be able to see
// what does come here; see `caddy token intercepted`.

// seenEvent is something that was seen of an app.
type seenEvent string

const (
	seenConnect    seenEvent = "connect"    // a CONNECT to a route
	seenRequest    seenEvent = "request"    // a request that got to a route
	seenTunnel     seenEvent = "tunnel"     // a CONNECT or a request to a host without a route
	seenRefused    seenEvent = "refused"    // a CONNECT or a request to a host that may not be called
	seenDistrusted seenEvent = "distrusted" // a handshake that the client broke off
)

// seenRow is what was seen of one caller and one host.
type seenRow struct {
	// Caller is the peer's address without its port; "unix" for a socket.
	Caller string `json:"caller"`
	// ProxyUser is the user in the proxy's URL.
	ProxyUser string `json:"proxy_user,omitempty"`
	// Host is the host that was asked for.
	Host string `json:"host"`
	// Route is the route's host; empty: there is none.
	Route string              `json:"route,omitempty"`
	Seen  map[seenEvent]int64 `json:"seen"`
	Last  time.Time           `json:"last"`
}

// maxSeen bounds the rows. The one that was not seen for longest goes first.
const maxSeen = 1000

type seenTable struct {
	mu   sync.Mutex
	rows map[[3]string]*seenRow
}

// seenProxy outlives reloads, as the metrics do.
var seenProxy = &seenTable{rows: make(map[[3]string]*seenRow)}

func (st *seenTable) count(r *http.Request, user string, t target, route string, event seenEvent) {
	st.add(r.RemoteAddr, user, t, route, event)
}

func (st *seenTable) countTunnel(t *tunnel, event seenEvent) {
	st.add(t.remote, t.user, t.target, t.route.Host, event)
}

func (st *seenTable) add(remote, user string, t target, route string, event seenEvent) {
	interceptedTotal.WithLabelValues(route, string(event)).Inc()
	caller, _, err := net.SplitHostPort(remote)
	if err != nil {
		caller = "unix"
	}
	now := time.Now()
	st.mu.Lock()
	defer st.mu.Unlock()
	key := [3]string{caller, user, t.hostport()}
	row := st.rows[key]
	if row == nil {
		if len(st.rows) >= maxSeen {
			oldest := slices.MinFunc(slices.Collect(maps.Keys(st.rows)), func(a, b [3]string) int { return st.rows[a].Last.Compare(st.rows[b].Last) })
			delete(st.rows, oldest)
		}
		row = &seenRow{Caller: caller, ProxyUser: user, Host: t.hostport(), Seen: make(map[seenEvent]int64)}
		st.rows[key] = row
	}
	row.Route, row.Last = cmp.Or(route, row.Route), now
	row.Seen[event]++
}

// list returns the rows, by host and caller.
func (st *seenTable) list() []seenRow {
	st.mu.Lock()
	defer st.mu.Unlock()
	rows := make([]seenRow, 0, len(st.rows))
	for _, row := range st.rows {
		c := *row
		c.Seen = maps.Clone(row.Seen)
		rows = append(rows, c)
	}
	slices.SortFunc(rows, func(a, b seenRow) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.ProxyUser, b.ProxyUser))
	})
	return rows
}
