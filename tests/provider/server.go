package provider

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server is a provider at an address of its own, for programs that are no tests.
type Server struct {
	*Provider
	// URL is its root.
	URL string

	addr   string
	mu     sync.Mutex
	server *http.Server // nil while connections are refused
}

// Start starts a server for a provider at a free port of this machine.
func Start(p *Provider) (*Server, error) {
	s := &Server{Provider: p, addr: "127.0.0.1:0"}
	if err := s.Resume(); err != nil {
		return nil, err
	}
	s.URL = "http://" + s.addr
	return s, nil
}

// Resume takes connections again after Refuse, at the same address.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("starting a provider: %w", err)
	}
	s.addr = l.Addr().String()
	server := &http.Server{Handler: s.Provider, ReadHeaderTimeout: 10 * time.Second, ConnContext: ConnContext}
	s.server = server
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is ours alone
		}
	}()
	return nil
}

// Refuse closes the port and all connections, those in use too.
func (s *Server) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		_ = s.server.Close()
		s.server = nil
	}
}

// Close ends the server and the calls that are under way.
func (s *Server) Close() {
	s.Provider.Close()
	s.Refuse()
}
