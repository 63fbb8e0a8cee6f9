package tokenendpoint_test

import (
	"net/http"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

type replaced struct{ http.RoundTripper }

// A program may replace http.DefaultTransport, by one that traces, say.
func TestDefaultTransportThatIsReplaced(t *testing.T) {
	before := http.DefaultTransport
	http.DefaultTransport = replaced{before}
	defer func() { http.DefaultTransport = before }()
	tr := tokenendpoint.NewTransport()
	if !tr.DisableKeepAlives || tr.Proxy == nil || !tr.ForceAttemptHTTP2 || tr.TLSHandshakeTimeout == 0 {
		t.Errorf("%+v: want what http.DefaultTransport has, without kept connections", tr)
	}
}
