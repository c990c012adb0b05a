package emulator

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// signer makes and verifies IAM access tokens (RS256).
type signer struct {
	issuer  string
	now     func() time.Time
	keys    map[string]*rsa.PrivateKey // by kid
	current string                     // kid that signs: the newest
}

// newSigningKeys makes two keys whose ids look like IBM's, the minute they were made: the one that
// signs and its predecessor.
func newSigningKeys(now time.Time) (map[string]*rsa.PrivateKey, error) {
	out := map[string]*rsa.PrivateKey{}
	for _, made := range []time.Time{now, now.AddDate(0, 0, -30)} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		out[made.UTC().Format("200601021504")] = key
	}
	return out, nil
}

// jwk is one entry of GET /identity/keys; IBM's entries have no "use" member.
type jwk struct {
	Kty string `json:"kty"`
	N   string `json:"n"`
	E   string `json:"e"`
	Alg string `json:"alg"`
	Kid string `json:"kid"`
}

func (s *signer) jwks() []jwk {
	out := make([]jwk, 0, len(s.keys))
	for kid, key := range s.keys {
		out = append(out, jwk{
			Kty: "RSA",
			N:   base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			E:   base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
			Alg: "RS256",
			Kid: kid,
		})
	}
	return out
}

// accountClaim is the account member of a token: bss is the account's id, ims the number of its
// older infrastructure account, which only users' tokens hold.
type accountClaim struct {
	Valid  bool   `json:"valid"`
	BSS    string `json:"bss"`
	IMS    string `json:"ims,omitempty"`
	Frozen bool   `json:"frozen"`
}

type authnClaim struct {
	Sub        string `json:"sub"`
	IAMID      string `json:"iam_id"`
	SubType    string `json:"sub_type,omitempty"`
	Name       string `json:"name"`
	GivenName  string `json:"given_name,omitempty"`
	FamilyName string `json:"family_name,omitempty"`
	Email      string `json:"email,omitempty"`
}

// claims are an access token's, as IAM writes them for users and service IDs. There is no aud.
type claims struct {
	IAMID      string       `json:"iam_id"`
	ID         string       `json:"id"`
	RealmID    string       `json:"realmid"`
	JTI        string       `json:"jti"`
	Identifier string       `json:"identifier"`
	GivenName  string       `json:"given_name,omitempty"`
	FamilyName string       `json:"family_name,omitempty"`
	Name       string       `json:"name"`
	Email      string       `json:"email,omitempty"`
	Sub        string       `json:"sub"`
	SubType    string       `json:"sub_type,omitempty"`
	Authn      authnClaim   `json:"authn"`
	Account    accountClaim `json:"account"`
	IAT        int64        `json:"iat"`
	EXP        int64        `json:"exp"`
	ISS        string       `json:"iss"`
	GrantType  string       `json:"grant_type"`
	Scope      string       `json:"scope"`
	ClientID   string       `json:"client_id"`
	ACR        int          `json:"acr"`
	AMR        []string     `json:"amr"`
}

func unixClaim(t int64) (*jwt.NumericDate, error) { return jwt.NewNumericDate(time.Unix(t, 0)), nil }

// The methods below let the JWT library check the times and the issuer.

func (c claims) GetExpirationTime() (*jwt.NumericDate, error) { return unixClaim(c.EXP) }
func (c claims) GetIssuedAt() (*jwt.NumericDate, error)       { return unixClaim(c.IAT) }
func (c claims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (c claims) GetIssuer() (string, error)                   { return c.ISS, nil }
func (c claims) GetSubject() (string, error)                  { return c.Sub, nil }
func (c claims) GetAudience() (jwt.ClaimStrings, error)       { return nil, nil }

// claimsFor is what IAM says about p in a token of the API key grant.
func claimsFor(p principal, issuer, clientID string, issued time.Time, lifetime time.Duration) claims {
	c := claims{
		IAMID: p.IAMID, ID: p.IAMID, JTI: uuid.NewString(), Name: p.Name,
		Account:   accountClaim{Valid: true, BSS: p.Account, Frozen: true},
		IAT:       issued.Unix(),
		EXP:       issued.Add(lifetime).Unix(),
		ISS:       issuer,
		GrantType: grantAPIKey, Scope: "ibm openid", ClientID: clientID,
		ACR: 1, AMR: []string{"pwd"},
	}
	c.RealmID, c.Identifier, _ = strings.Cut(p.IAMID, "-")
	if p.Email == "" {
		c.Sub, c.SubType = c.Identifier, "ServiceId"
	} else {
		c.Sub, c.Email = p.Email, p.Email
		c.GivenName, c.FamilyName, _ = strings.Cut(p.Name, " ")
		c.Account.IMS = strconv.Itoa(1_000_000 + int(crc32.ChecksumIEEE([]byte(p.Account))%9_000_000))
	}
	c.Authn = authnClaim{
		Sub: c.Sub, IAMID: c.IAMID, SubType: c.SubType, Name: c.Name,
		GivenName: c.GivenName, FamilyName: c.FamilyName, Email: c.Email,
	}
	return c
}

func (s *signer) sign(c claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	t.Header = map[string]any{"kid": s.current, "alg": "RS256"}
	return t.SignedString(s.keys[s.current])
}

// Why a request carries no usable token.
var (
	errNoToken         = errors.New("no valid token")
	errTokenUnreadable = errors.New("the token cannot be parsed")
)

// caller verifies the request's bearer token and returns its IAM id; errTokenUnreadable when it is
// no JWT with a subject, errNoToken for every other fault.
func (s *signer) caller(r *http.Request) (string, error) {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", errNoToken
	}
	var c claims
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(s.issuer),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(s.now),
	).ParseWithClaims(strings.TrimSpace(raw), &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if key := s.keys[kid]; key != nil {
			return &key.PublicKey, nil
		}
		return nil, errNoToken
	})
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed), err == nil && c.Sub == "":
		return "", errTokenUnreadable
	case err != nil:
		return "", errNoToken
	}
	return c.IAMID, nil
}
