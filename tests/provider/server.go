package provider

import (
	"errors"
	"net"
	"net/http"
	"time"
)

// Server is a provider at an address of its own, for programs that are no tests.
type Server struct {
	*Provider
	// URL is its root.
	URL string

	server *http.Server
}

// Start starts a server for a provider at a free port of this machine.
func Start(p *Provider) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		Provider: p,
		URL:      "http://" + l.Addr().String(),
		server:   &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, ConnContext: ConnContext},
	}
	go func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is ours alone
		}
	}()
	return s, nil
}

// Close ends the server and the calls that are under way.
func (s *Server) Close() {
	s.Provider.Close()
	_ = s.server.Close()
}
