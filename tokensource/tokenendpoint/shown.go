package tokenendpoint

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
)

// What is shown of a call that failed. Whatever another side wrote, and whatever a
// key's value was put into, is shown by words that are known before.

// shapeOf describes a response.
func (r *ResponseOptions) shapeOf(header http.Header, doc *document) Shape {
	shape := Shape{ContentType: mediaTypeOf(header), JSON: doc != nil}
	if shape.ContentType != "" && !slices.Contains(contentTypes, shape.ContentType) {
		shape.ContentType = otherContentType
	}
	if doc == nil || doc.kind(0) != jsonObject {
		return shape
	}
	named := r.topNames()
	doc.in(0, func(i int32) bool {
		written := doc.name(i)
		if len(written) > maxMemberName || !(slices.Contains(named, string(written)) || allWords(written)) {
			shape.Others++
			return true
		}
		at, twice := slices.BinarySearch(shape.Members, string(written))
		switch {
		case twice:
		case len(shape.Members) < maxMembers:
			shape.Members = slices.Insert(shape.Members, at, string(written))
		default:
			shape.Others++
		}
		return true
	})
	return shape
}

const (
	// maxMembers is how many names of members a shape has.
	maxMembers = 12
	// maxMemberName is the longest of them, in bytes.
	maxMemberName = 40
	// otherContentType stands for a media type that is not listed.
	otherContentType = "another content type"
)

// contentTypes are the media types that are shown.
var contentTypes = strings.Fields(`
application/atom+xml application/hal+json application/html application/javascript application/json application/jwt
application/ld+json application/octet-stream application/problem+json application/problem+xml application/soap+xml
application/token-introspection+jwt application/vnd.api+json application/x-javascript application/x-json
application/x-www-form-urlencoded application/xhtml+xml application/xml multipart/form-data text/css text/csv text/html
text/javascript text/json text/plain text/xml text/x-json`)

// topNames are the names at the top of a response that the settings name.
func (r *ResponseOptions) topNames() (names []string) {
	add := func(path string) {
		if path != "" {
			names = append(names, path, splitPath(path)[0])
		}
	}
	for _, path := range slices.Concat(r.AccessToken, r.RefreshToken, r.ExpiresIn) {
		add(path)
	}
	for _, ms := range r.matchers() {
		for _, m := range ms {
			add(m.JSON)
		}
	}
	return names
}

// namedCode is a code as the settings write it, where a matcher of theirs has it
// for a value; "" if none has.
func (r *ResponseOptions) namedCode(code string) string {
	for _, ms := range r.matchers() {
		for _, m := range ms {
			for _, value := range m.Values {
				if m.JSON != "" && strings.EqualFold(value, code) {
					return value
				}
			}
		}
	}
	return ""
}

// matchers are all that the settings have.
func (r *ResponseOptions) matchers() [][]Matcher {
	return [][]Matcher{r.ErrorWhen, r.Transient, r.Throttled, r.ConsentLost, r.UserRefused, r.ClientRefused, r.Permanent}
}

// allWords reports whether a member's name consists of known words, such as
// access_token, expiresIn and authed-user. A name that does not may be data: a
// user's, a tenant's, or a token.
func allWords(name []byte) bool {
	var word [maxMemberName]byte
	n, words := 0, 0
	known := func() bool {
		ok := memberWords[string(word[:n])]
		n, words = 0, words+1
		return ok
	}
	for i, c := range name {
		last := byte('_')
		if i > 0 {
			last = name[i-1]
		}
		switch {
		case isLetter(c):
			begins := isDigit(last) || (isUpper(c) && !isUpper(last)) ||
				(n > 1 && isUpper(c) && i+1 < len(name) && isLetter(name[i+1]) && !isUpper(name[i+1])) // as in JWTToken
			if begins && n > 0 && !known() {
				return false
			}
			word[n] = c | 0x20
			n++
		case isDigit(c) && isLetter(last): // as in oauth2
		case c == '_', c == '-', c == '.':
			if n > 0 && !known() {
				return false
			}
		default:
			return false
		}
	}
	return (n == 0 || known()) && words > 0
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

// memberWords are the words that names of members are made of, at token endpoints
// and wherever tokens are issued.
var memberWords = func() map[string]bool {
	all := make(map[string]bool)
	for word := range strings.FieldsSeq(memberWordList) {
		all[word] = true
	}
	return all
}()

const memberWordList = `
access accesstoken account accounts action active actor agent amr api app apps application applications at attribute
attributes aud audience auth authed authenticated authentication authorisation authorization authorized azp bearer body
bot cause channel claims class client clientid clients code codes company config context cookie cookies correlation
country created creation credential credentials csrf current customer data date default description desc detail details
developer device domain duration email enabled end endpoint enterprise entity env environment err errcode errmsg error
errorcode errormessage errors event exception exp expiration expire expired expires expiresin expiry ext extended failed
failure family field fields first flag for format from globalisation grant granted grants group groups guid has headers
help hint host hours http https iat id identifier identity idtoken ids in info information instance int internal interval
intervals invalid is iss issue issued issuer item items iso jti jwt jwtoken key keys kind lang language last level
lifetime limit link links list locale location log login logout long max member members message messages meta metadata
method mfa millis milliseconds min minutes model more ms msg my name namespace nbf new next no nonce not now number oauth
object of ok on openid operation org organisation organization origin output page param parameter parameters params
parent partner password path payload period permission permissions phone platform policy previous product profile project
property provider public query rate raw reason record records redirect ref reference refresh refreshable refreshed
refreshtoken region remaining req request requestid required requires res reset resource resources resp response rest
result resultcode results ret retry return role roles root rotation rt scope scopes seconds secret security self server
service services session sessionid sessions set short sid site solution source stack start state status statuscode sub
subject subscription success successful suggestion support system tenant tenantid text tfa time timestamp timezone title
to token tokens tokentype total trace traceid transaction ttl type types uid until updated uri url urls use used user
userid userinfo username users uuid valid validity value values verification verified version warning warnings web
workspace zone`

// address is the URL's host and port, and its path, as errors show them: without a
// query, which may hold secrets, and with all that was put into them by its name. A
// key's value is somebody's, and what was resolved may be a secret.
func (ep *Endpoint) address() (host, path string) {
	text := ep.URL.shown()
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	m := hostAndPath.FindStringSubmatch(text)
	return m[1], m[2]
}

// hostAndPath finds the host, and the path behind it. Names in braces may hold a
// slash.
var hostAndPath = regexp.MustCompile(`^((?:\{[^}]*\}|[^/?#{])*)(/(?:\{[^}]*\}|[^?#{])*)?`)

// withoutHost is the failure of a call whose host must not be told: of an error that
// [plainError] lets through it leaves what happened. host is how the host is shown.
// Names and addresses that were looked up or connected to, and the names that a
// certificate is for, would tell what was put into it.
func withoutHost(err error, host string) error {
	var (
		op          *net.OpError
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		alert       tls.AlertError
	)
	switch {
	case errors.As(err, &alert):
		return fmt.Errorf("TLS: %w", alert)
	case errors.As(err, &dns):
		plain := &net.DNSError{Name: host, IsTimeout: dns.IsTimeout, IsTemporary: dns.IsTemporary, IsNotFound: dns.IsNotFound}
		plain.Err = plainReason(dns).Error()
		return plain
	case errors.As(err, &certificate):
		return errors.New(plainerror.Certificate(err, host))
	case errors.As(err, &op):
		return &net.OpError{Op: op.Op, Net: op.Net, Err: plainReason(op.Err)}
	}
	return err
}

// plainReason is why an address was not reached, in words that hold none.
func plainReason(err error) error {
	var dns *net.DNSError
	var timeout net.Error
	for _, known := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT,
		syscall.EPIPE, syscall.EADDRNOTAVAIL, syscall.EMFILE, os.ErrDeadlineExceeded, errNoSuchHost, net.ErrClosed,
	} {
		// some errors come as text alone, such as those of a dialer of Caddy's
		if errors.Is(err, known) || strings.HasSuffix(err.Error(), known.Error()) {
			return known
		}
	}
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return errNoSuchHost
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded
	}
	return errNotReached
}

var (
	errNoSuchHost = errors.New("no such host")
	errNotReached = errors.New("failed")
)
