package caddymodule

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// The sidecar's own responses: RFC 9457 problem documents. This file is the one
// place where errors become responses.

const (
	problemAuthorizationRequired = "authorization-required"
	problemTokenUnavailable      = "token-unavailable"
	problemClientRefused         = "client-refused"
	problemTokenRefused          = "token-refused"
	problemBreakerOpen           = "breaker-open"
	problemCodeRefused           = "code-refused"
	problemKeyMissing            = "key-missing"
	problemCallerRefused         = "caller-refused"
	problemMethodRefused         = "method-refused"
	problemUpstreamInsecure      = "upstream-insecure"
	problemUpstreamUnreachable   = "upstream-unreachable"
	problemUpstreamTimeout       = "upstream-timeout"
	problemTargetRefused         = "target-refused"
	problemMisdirected           = "misdirected"
	problemNotFound              = "not-found"
	problemBadRequest            = "bad-request"
)

func problemNames() []string {
	return []string{
		problemAuthorizationRequired, problemTokenUnavailable, problemClientRefused, problemTokenRefused, problemBreakerOpen,
		problemCodeRefused, problemKeyMissing, problemCallerRefused, problemMethodRefused, problemUpstreamInsecure,
		problemUpstreamUnreachable, problemUpstreamTimeout, problemTargetRefused, problemMisdirected, problemNotFound, problemBadRequest,
	}
}

// problemTypes is the page that explains the problems. A problem's type is this and
// its name.
const problemTypes = "https://github.com/caddy-bearer/caddy-bearer/blob/main/docs/problems.md#"

var problemTitles = map[string]string{
	problemAuthorizationRequired: "A person must authorize first",
	problemTokenUnavailable:      "No token can be obtained for now",
	problemClientRefused:         "The token endpoint refuses the client or its settings",
	problemTokenRefused:          "No token can be obtained for this request",
	problemBreakerOpen:           "The API kept refusing, and is not called for a while",
	problemCodeRefused:           "The authorization code is refused",
	problemKeyMissing:            "The request does not say whose token it needs",
	problemCallerRefused:         "This caller may not use the sidecar",
	problemMethodRefused:         "This method is not proxied",
	problemUpstreamInsecure:      "The upstream would receive the token in the clear",
	problemUpstreamUnreachable:   "The API cannot be reached",
	problemUpstreamTimeout:       "The API does not respond in time",
	problemTargetRefused:         "This host may not be called through the sidecar",
	problemMisdirected:           "The request is for another host than its connection",
	problemNotFound:              "There is nothing at this path",
	problemBadRequest:            "The request is not understood",
}

// problem is a response of the sidecar's own.
type problem struct {
	name       string
	status     int
	detail     string
	source     string
	fault      tokensource.Fault
	key        string // the hash that logs show; empty: the source has no key
	login      string
	retryAfter time.Duration
	// proxyError is the error type for Proxy-Status. Default: it follows from status.
	proxyError string
}

// problemOf turns an error of a token source into a problem. values are the values
// of the key, and binding is that of the person's browser, for the login link.
//
// The details never quote the error. It may name the provider's host and status,
// which the app needs no more than the secret; the log has them.
func (ps *pooledSource) problemOf(err error, values []string, binding string) *problem {
	p := &problem{source: ps.Name(), fault: tokensource.FaultOf(err), retryAfter: tokensource.RetryAfter(err)}
	if len(values) > 0 && len(ps.KeyNames()) > 0 {
		p.key = tokensource.NewKey(values...).String()
	}
	switch {
	case errors.Is(err, tokensource.ErrCodeRefused):
		p.name, p.status, p.detail = problemCodeRefused, http.StatusUnprocessableEntity, "it was refused, or used before; a new one is needed"
		p.retryAfter = 0
	case errors.Is(err, tokensource.ErrAuthorizationRequired):
		p.name, p.status, p.detail = problemAuthorizationRequired, http.StatusForbidden, "no token can be obtained without a person's consent"
		p.retryAfter = 0
		if ps.logins != nil {
			p.login = ps.logins.link(ps.Name(), values, binding)
		}
	case errors.Is(err, tokensource.ErrBreakerOpen):
		p.name, p.status = problemBreakerOpen, http.StatusServiceUnavailable
		p.detail = "the API kept refusing renewed tokens; the log has its last refusal"
	case errors.Is(err, tokensource.ErrUnreadable):
		p.name, p.status, p.detail = problemTokenRefused, http.StatusBadGateway, "the stored token cannot be read, and is not replaced; the log says why"
		p.retryAfter = 0
	case errors.Is(err, tokensource.ErrRefused) && p.fault == tokensource.FaultUser:
		p.name, p.status = problemTokenRefused, http.StatusBadGateway
		p.detail = "the token endpoint refuses this key; others are served. The sidecar tries again from time to time; the log says what was refused"
	case errors.Is(err, tokensource.ErrRefused):
		p.name, p.status = problemClientRefused, http.StatusBadGateway
		p.detail = "the token endpoint refuses the client, or what the settings ask for. The sidecar tries again from time to time; the log says what was refused"
	default:
		p.name, p.status = problemTokenUnavailable, http.StatusServiceUnavailable
		p.detail = "the token endpoint cannot be reached, fails or asks for fewer calls; the log says which"
		if p.fault == tokensource.FaultStore {
			p.detail = "the token store fails, and the token cannot be renewed safely without it; the log says how"
		}
		if p.retryAfter == 0 {
			p.retryAfter = time.Second
		}
	}
	return p
}

// problemOf is that of the source. The request may bind the login link to a browser.
func (c *Client) problemOf(req *http.Request, err error, values []string) *problem {
	binding, bad := loginBinding(req)
	if bad != nil && errors.Is(err, tokensource.ErrAuthorizationRequired) {
		return &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: bad.Error()}
	}
	return c.source.problemOf(err, values, binding)
}

// notInjected is the problem of a request that was not sent, because the token could
// not be put into it.
func notInjected(err error) *problem {
	if errors.Is(err, bearer.ErrPath) {
		return &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: err.Error()}
	}
	return &problem{name: problemTokenRefused, status: http.StatusBadGateway, detail: "the token cannot be put into the request: " + err.Error()}
}

// keyProblem is the problem of a request whose key has no value, or one that is too
// long.
func keyProblem(err error) *problem {
	var ke *keyError
	if errors.As(err, &ke) && ke.bad {
		return &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: err.Error()}
	}
	return &problem{name: problemKeyMissing, status: http.StatusBadRequest, detail: err.Error()}
}

// upstreamProblem is the problem of a request to which the API did not respond. sent
// says that it was sent, or that sending it was tried.
func upstreamProblem(err error, timedOut, sent bool) *problem {
	var (
		dial reverseproxy.DialError
		ne   net.Error
		cert *tls.CertificateVerificationError
		p    = &problem{name: problemUpstreamUnreachable, status: http.StatusBadGateway}
	)
	switch {
	case timedOut && !sent:
		p.name, p.status, p.retryAfter = problemTokenUnavailable, http.StatusServiceUnavailable, time.Second
		p.detail, p.proxyError = "no token came within the timeout", "destination_unavailable"
	case errors.As(err, &dial):
		p.notConnected(dial.Error())
	case timedOut, errors.As(err, &ne) && ne.Timeout():
		p.name, p.status = problemUpstreamTimeout, http.StatusGatewayTimeout
		p.detail, p.proxyError = "the API did not respond in time; it may have processed the request", "http_response_timeout"
	case errors.As(err, &cert):
		p.detail, p.proxyError = "the API's certificate is not trusted", "tls_certificate_error"
	default:
		p.detail, p.proxyError = "the API ended the connection before its response, or its response is not HTTP; it may have processed the request", "connection_terminated"
	}
	return p
}

// notConnected says why there is no connection to the API. Caddy's DialError hides the
// error that it is made of, so there is only its text, which package net has written.
func (p *problem) notConnected(text string) {
	switch {
	case strings.Contains(text, "i/o timeout"), strings.Contains(text, context.DeadlineExceeded.Error()):
		p.name, p.status = problemUpstreamTimeout, http.StatusGatewayTimeout
		p.detail, p.proxyError = "the API did not take the connection in time", "connection_timeout"
	case strings.Contains(text, errProhibited.Error()):
		p.detail, p.proxyError = "the host's name leads to an address that is not public, and not among allow_addresses", "destination_ip_prohibited"
	case strings.Contains(text, errLoop.Error()):
		p.detail, p.proxyError = "the API's name leads to this sidecar itself: expected resolvers that lead it to the API", "proxy_loop_detected"
	case strings.Contains(text, "lookup "):
		p.detail, p.proxyError = "the API's name cannot be resolved", "dns_error"
	case strings.Contains(text, syscall.ECONNREFUSED.Error()):
		p.detail, p.proxyError = "the API refuses connections", "connection_refused"
	default:
		p.detail, p.proxyError = "no connection to the API can be made", "destination_ip_unroutable"
	}
}

func (p *problem) body() []byte {
	b, err := json.Marshal(struct {
		Type   string            `json:"type"`
		Title  string            `json:"title"`
		Status int               `json:"status"`
		Detail string            `json:"detail,omitempty"`
		Source string            `json:"source,omitempty"`
		Fault  tokensource.Fault `json:"fault,omitempty"`
		Key    string            `json:"key,omitempty"`
		Login  string            `json:"login,omitempty"`
	}{problemTypes + p.name, problemTitles[p.name], p.status, p.detail, p.source, p.fault, p.key, p.login})
	if err != nil { // impossible: there are only strings and a number
		return []byte("{}")
	}
	return append(b, '\n')
}

func (p *problem) header() http.Header {
	h := http.Header{
		"Content-Type":  {"application/problem+json"},
		"Cache-Control": {"no-store"},
		"Proxy-Status":  {proxyStatus("error", p.errorType(), p.name)},
	}
	if p.retryAfter > 0 {
		h["Retry-After"] = []string{strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds())))}
	}
	return h
}

// errorType is the proxy error type for Proxy-Status (RFC 9209, section 2.3).
func (p *problem) errorType() string {
	switch {
	case p.proxyError != "":
		return p.proxyError
	case p.status == http.StatusServiceUnavailable:
		return "destination_unavailable"
	case p.status >= http.StatusInternalServerError:
		return "proxy_configuration_error"
	}
	return "http_request_denied"
}

// proxyStatus makes a Proxy-Status member (RFC 9209) with one parameter and details.
func proxyStatus(param string, value any, details string) string {
	return fmt.Sprintf("caddy-bearer; %s=%v; details=%q", param, value, details)
}

// response makes the problem look like an upstream's response, for a transport. It
// closes the request's body, as a RoundTripper must.
func (p *problem) response(req *http.Request) *http.Response {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	body := p.body()
	h := p.header()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	res := &http.Response{
		Status: strconv.Itoa(p.status) + " " + http.StatusText(p.status), StatusCode: p.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Request: req,
	}
	if req.Method == http.MethodHead {
		res.Body = http.NoBody
	}
	return res
}

// write sends the problem as a handler's response. An app that waits for 100 (Continue)
// gets that first: see appBody.
func (p *problem) write(w http.ResponseWriter, r *http.Request) error {
	if expectsContinue(r) {
		_, _ = r.Body.Read(nil)
	}
	for name, values := range p.header() {
		w.Header()[name] = values
	}
	w.WriteHeader(p.status)
	_, err := w.Write(p.body())
	return err
}
