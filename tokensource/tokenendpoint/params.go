package tokenendpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParamsIn is where a token request's parameters go.
type ParamsIn string

// The places.
const (
	ParamsForm      ParamsIn = "form"
	ParamsQuery     ParamsIn = "query"
	ParamsJSON      ParamsIn = "json"
	ParamsMultipart ParamsIn = "multipart"
	ParamsNone      ParamsIn = "none"
)

// ParamType is how a JSON body holds a value.
type ParamType string

// The types.
const (
	ParamString ParamType = "string"
	ParamNumber ParamType = "number"
	ParamBool   ParamType = "bool"
	ParamRaw    ParamType = "raw" // the value is JSON already
)

// Param is one parameter of a token request.
type Param struct {
	// Name; in a JSON body dots nest objects.
	Name  string
	Value Template
	// In sends this one elsewhere than Endpoint.ParamsIn: ParamsQuery, or
	// ParamsForm for "in the body". Default: with the others.
	In ParamsIn
	// Type in a JSON body. Default: ParamString.
	Type ParamType
	// Secret: the value is looked for in errors, and never printed.
	Secret bool
	// Again: it stands beside others of its name, as RFC 8707's resource may.
	Again bool
}

// sent is a parameter with its value.
type sent struct {
	name, value string
	in          ParamsIn
	kind        ParamType
	secret      bool
	again       bool
}

// ParamList is a token request's parameters while it is being made: what a
// [ClientAuth] adds to.
type ParamList struct{ list []sent }

// Set puts a parameter, replacing one of that name.
func (p *ParamList) Set(name, value string) { p.put(sent{name: name, value: value}) }

// SetSecret is Set for a value that must not show in errors.
func (p *ParamList) SetSecret(name string, value Secret) {
	p.put(sent{name: name, value: value.Reveal(), secret: true})
}

func (p *ParamList) put(s sent) {
	if i := slices.IndexFunc(p.list, func(o sent) bool { return o.name == s.name }); i >= 0 && !s.again {
		s.secret = s.secret || p.list[i].secret
		p.list[i] = s
		return
	}
	p.list = append(p.list, s)
}

// expand fills in the templates of the grant's parameters and the endpoint's,
// renames and leaves out.
func (ep *Endpoint) expand(p *ParamList, params []Param, vars Lookup) error {
	for _, param := range params {
		value, err := param.Value.Expand(vars)
		if err != nil {
			return fmt.Errorf("parameter %s: %w", param.Name, err)
		}
		p.put(sent{param.Name, value, param.In, param.Type, param.Secret, param.Again})
	}
	return nil
}

// dialect applies Rename and Omit, last: they are about names on the wire.
func (ep *Endpoint) dialect(p *ParamList) {
	p.list = slices.DeleteFunc(p.list, func(s sent) bool { return slices.Contains(ep.Omit, s.name) })
	for i, s := range p.list {
		if name, ok := ep.Rename[s.name]; ok {
			p.list[i].name = name
		}
	}
}

// encode splits the parameters into a query and a body.
func (ep *Endpoint) encode(p *ParamList) (query url.Values, body []byte, contentType string, err error) {
	in := ep.paramsIn()
	query = url.Values{}
	var rest []sent
	for _, s := range p.list {
		switch {
		case s.in == ParamsQuery || (s.in == "" && in == ParamsQuery):
			query.Add(s.name, s.value)
		case in == ParamsNone && s.in == "":
		default:
			rest = append(rest, s)
		}
	}
	switch in {
	case ParamsJSON:
		contentType = "application/json"
		body, err = encodeJSON(rest)
	case ParamsMultipart:
		body, contentType, err = encodeMultipart(rest)
	default: // also of an empty body: MondiaPay wants the type with all in the query
		contentType = "application/x-www-form-urlencoded"
		form := url.Values{}
		for _, s := range rest {
			form.Add(s.name, s.value)
		}
		body = []byte(form.Encode())
	}
	return query, body, contentType, err
}

func (ep *Endpoint) paramsIn() ParamsIn {
	switch {
	case ep.ParamsIn != "":
		return ep.ParamsIn
	case strings.EqualFold(ep.Method, http.MethodGet):
		return ParamsQuery
	}
	return ParamsForm
}

func encodeJSON(params []sent) ([]byte, error) {
	root := map[string]any{}
	for _, s := range params {
		value, err := jsonValue(s)
		if err != nil {
			return nil, err
		}
		path := splitPath(s.name)
		object := root
		for _, name := range path[:len(path)-1] {
			inner, ok := object[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				object[name] = inner
			}
			object = inner
		}
		object[path[len(path)-1]] = value
	}
	return json.Marshal(root)
}

func jsonValue(s sent) (any, error) {
	if !utf8.ValidString(s.value) { // encoding/json would make different values the same
		return nil, fmt.Errorf("parameter %s: its value is not UTF-8, which JSON needs", s.name)
	}
	switch s.kind {
	case ParamNumber:
		if _, err := strconv.ParseFloat(s.value, 64); err != nil || !json.Valid([]byte(s.value)) {
			return nil, fmt.Errorf("parameter %s: its value is not a number", s.name)
		}
		return json.Number(s.value), nil
	case ParamBool:
		b, err := strconv.ParseBool(s.value)
		if err != nil {
			return nil, fmt.Errorf("parameter %s: its value is neither true nor false", s.name)
		}
		return b, nil
	case ParamRaw:
		if !json.Valid([]byte(s.value)) {
			return nil, fmt.Errorf("parameter %s: its value is not JSON", s.name)
		}
		return json.RawMessage(s.value), nil
	}
	return s.value, nil
}

func encodeMultipart(params []sent) ([]byte, string, error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, s := range params {
		if err := w.WriteField(s.name, s.value); err != nil {
			return nil, "", err
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return b.Bytes(), w.FormDataContentType(), nil
}

// splitPath splits at dots; a backslash takes a dot as it is.
func splitPath(path string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path):
			i++
			b.WriteByte(path[i])
		case path[i] == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(path[i])
		}
	}
	return append(parts, b.String())
}
