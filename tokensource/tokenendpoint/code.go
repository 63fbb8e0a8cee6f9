package tokenendpoint

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Code is a response's error code (RFC 6749, section 5.2). It is what another side
// wrote, and that may be anything: a secret that it was sent, or a person's name.
// So it prints as one of a closed list of codes, or as "other". A conversion to
// string gives the code itself, for comparing and not for showing.
type Code string

// otherCode stands for a code that is not listed.
const otherCode = "other"

// String returns the code as it is listed, "other" if it is not, and "" if there
// is none.
func (c Code) String() string {
	if c == "" {
		return ""
	}
	if listed, ok := codes[strings.ToLower(string(c[:min(len(c), maxCode)]))]; ok && len(c) <= maxCode {
		return listed
	}
	return otherCode
}

// Format prints String under every verb.
func (c Code) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// MarshalText returns String; encoding/json uses it too.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// LogValue implements [slog.LogValuer].
func (c Code) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Registered reports whether OAuth knows the code (RFC 6749, sections 4.1.2.1 and
// 5.2, and what extends it).
func (c Code) Registered() bool { return slices.Contains(registeredCodes, string(c)) }

// maxCode is the longest code, in bytes.
const maxCode = 64

// Error codes by what they mean at a token endpoint (RFC 6749, sections 4.1.2.1 and
// 5.2; RFC 8628, section 3.5; RFC 8707, section 2), and some that are not
// registered.
var (
	refusalCodes = []string{
		"invalid_grant", "invalid_client", "unauthorized_client", "invalid_request", "invalid_scope",
		"unsupported_grant_type", "unsupported_response_type", "access_denied", "expired_token", "invalid_target",
	}
	throttleCodes  = []string{"slow_down", "too_many_requests", "rate_limit_exceeded", "rate_limited", "ratelimited"}
	transientCodes = []string{"server_error", "temporarily_unavailable"}
)

// registeredCodes are those of the OAuth Extensions Error Registry and of the
// specifications that it points to.
var registeredCodes = slices.Concat(refusalCodes, transientCodes, []string{
	"slow_down", "authorization_pending", // RFC 8628, section 3.5
	"unsupported_token_type",              // RFC 7009, section 2.2.1
	"invalid_token", "insufficient_scope", // RFC 6750, section 3.1
	"invalid_dpop_proof", "use_dpop_nonce", // RFC 9449, sections 5 and 8
	"insufficient_user_authentication",       // RFC 9470, section 3
	"invalid_authorization_details",          // RFC 9396, section 5
	"unmet_authentication_requirements",      // OpenID Connect
	"interaction_required", "login_required", // OpenID Connect Core, section 3.1.2.6
	"account_selection_required",              // the same
	"consent_required", "invalid_request_uri", // the same
	"invalid_request_object",                 // the same
	"request_not_supported",                  // the same
	"request_uri_not_supported",              // the same
	"registration_not_supported",             // the same
	"invalid_redirect_uri",                   // RFC 7591, section 3.2.2
	"invalid_client_metadata",                // the same
	"invalid_software_statement",             // the same
	"unapproved_software_statement",          // the same
	"missing_user_code", "invalid_user_code", // OpenID Connect CIBA, section 13
	"invalid_binding_message", "unknown_user_id", // the same
	"expired_login_hint_token", // the same
	"transaction_failed",       // the same
})

// codes are all codes that are shown, by themselves in lower case.
var codes = func() map[string]string {
	all := make(map[string]string)
	for _, code := range slices.Concat(registeredCodes, throttleCodes, strings.Fields(providersCodes)) {
		all[strings.ToLower(code)] = code
	}
	return all
}()

// providersCodes are words of real providers, at token endpoints and APIs.
const providersCodes = `
account_disabled account_inactive account_locked application_not_found authentication_error AUTHENTICATION_ERROR
AUTHORIZATION_ERROR AUTHORIZATION_FAILED bad_client_credentials bad_refresh_token bad_request bad_verification_code
client_disabled client_not_found code_already_used code_expired device_flow_disabled error.msg.invalid.tenant.identifier
error.msg.not.authenticated EXPIRED_OTP forbidden grant_not_found inactive_user incorrect_client_credentials
incorrect_device_code INCORRECT_OTP insufficient_permissions INSUFFICIENT_FUNDS internal_error internal_server_error
invalid_access_token invalid_api_key invalid_apikey invalid_app_id invalid_assertion invalid_auth invalid_auth_code
invalid_client_assertion invalid_client_credentials invalid_client_id invalid_client_secret invalid_code
invalid_credentials invalid_id_token invalid_jwt INVALID_LOGIN INVALID_MSISDN INVALID_OAUTHTOKEN invalid_otp
INVALID_PARAMETERS invalid_password invalid_refresh_token invalid_resource INVALID_SESSION_ID InvalidSessionId
invalid_user invalid_user_credentials jti_known mfa_enrollment_required mfa_required MFA_REQUIRED not_allowed not_authed
not_found org_login_required PAYMENT_TEMPORARILY_BLOCKED password_expired PERMISSION_DENIED quota_exceeded RATE_LIMIT
RATE_LIMIT_REACHED redirect_uri_mismatch refresh_token_expired refresh_token_invalid refresh_token_revoked
requires_validation RESTRICTED scope_not_authorized service_unavailable session_expired team_access_not_granted
timeout token_expired token_inactive token_invalid token_not_found token_revoked token_rotation_not_enabled
unauthenticated unauthorized unknown_client unknown_error unknown_user unsupported_client_authentication
unsupported_over_http user_account_locked user_blocked user_disabled USER_IS_BLOCKED user_locked user_not_found
wrong_client_secret wrong_password`
