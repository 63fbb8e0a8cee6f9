package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// hoard is a provider with a token for anybody, and an API that wants each user's own. It remembers nothing: a token is
// worked out from the user's name.
type hoard struct {
	*http.Server
	url    string
	size   int
	issued atomic.Int64
}

// wantedUser is the header that tells the API whose token has to come.
const wantedUser = "X-Wanted-User"

func newHoard(size int) (*hoard, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hoard{url: "http://" + l.Addr().String(), size: size}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", h.token)
	mux.HandleFunc("/", h.api)
	h.Server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is ours alone
		}
	}()
	return h, nil
}

func (h *hoard) token(w http.ResponseWriter, r *http.Request) {
	h.issued.Add(1)
	user := r.PostFormValue("username")
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": %q, "refresh_token": %q, "token_type": "Bearer", "expires_in": 86400}`,
		tokenOf("access", user, h.size), tokenOf("refresh", user, 64))
}

func (h *hoard) api(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+tokenOf("access", r.Header.Get(wantedUser), h.size) {
		http.Error(w, "another's token", http.StatusConflict)
		return
	}
	fmt.Fprintln(w, "ok")
}

// tokenOf is a token of a size.
func tokenOf(kind, user string, size int) string {
	sum := sha256.Sum256([]byte(kind + " " + user))
	text := hex.EncodeToString(sum[:])
	return strings.Repeat(text, size/len(text)+1)[:size]
}
