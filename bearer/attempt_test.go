package bearer

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// TestEarlyRefusalEndsItsConnection: a server that refuses before it has read
// the body may be about to close. The second sending does not go there.
func TestEarlyRefusalEndsItsConnection(t *testing.T) {
	var opened atomic.Int32
	over := make(chan struct{})
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if opened.Load() == 1 {
			_ = http.NewResponseController(w).EnableFullDuplex() // else net/http reads the body first
			w.Header().Set("Content-Length", "2")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "no")
			_ = http.NewResponseController(w).Flush()
			<-over // the server never reads the body
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	api.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	api.Start()
	defer api.Close()
	defer close(over)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()

	client, w := io.Pipe()
	b, _ := capture(client, -1, 1<<10)
	send := func() *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api.URL, b.open())
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	go func() { _, _ = io.WriteString(w, whole[:10]) }()
	refused := send()
	if !b.rewind() {
		t.Fatal("not rewound")
	}
	discard(refused)
	go func() {
		_, _ = io.WriteString(w, whole[10:])
		_ = w.Close()
	}()
	res := send()
	defer res.Body.Close()
	if got := readAll(t, res.Body); got != whole {
		t.Errorf("status %d, the second sending is %q", res.StatusCode, got)
	}
	if n := opened.Load(); n != 2 {
		t.Errorf("%d connections, want another for the second sending", n)
	}
	b.release()
}
