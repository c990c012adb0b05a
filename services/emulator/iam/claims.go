package iam

import (
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

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
	Name       string `json:"name,omitempty"`
	GivenName  string `json:"given_name,omitempty"`
	FamilyName string `json:"family_name,omitempty"`
	Email      string `json:"email,omitempty"`
}

// claims are an access token's, as IAM writes them for users, service IDs and CRNs. There is no aud.
type claims struct {
	IAMID      string       `json:"iam_id"`
	ID         string       `json:"id"`
	RealmID    string       `json:"realmid"`
	JTI        string       `json:"jti"`
	Identifier string       `json:"identifier"`
	GivenName  string       `json:"given_name,omitempty"`
	FamilyName string       `json:"family_name,omitempty"`
	Name       string       `json:"name,omitempty"`
	Email      string       `json:"email,omitempty"`
	Sub        string       `json:"sub"`
	SubType    string       `json:"sub_type,omitempty"`
	Bound      []string     `json:"unique_instance_crns,omitempty"`
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

const scopeDefault = "ibm openid"

// newClaims holds what all tokens have in common.
func (s *Service) newClaims(iamID, account, grant string, issued time.Time, lifetime time.Duration) claims {
	return claims{
		IAMID: iamID, ID: iamID, JTI: uuid.NewString(),
		Account: accountClaim{Valid: true, BSS: account, Frozen: true},
		IAT:     issued.Unix(), EXP: issued.Add(lifetime).Unix(), ISS: s.cfg.Issuer, GrantType: grant,
	}
}

// identityClaims is what IAM says about a user or service ID that gave its API key.
func (s *Service) identityClaims(who identity, clientID string, issued time.Time) claims {
	c := s.newClaims(who.IAMID, who.Account, grantAPIKey, issued, s.cfg.TokenLifetime)
	c.Name, c.Scope, c.ClientID, c.ACR, c.AMR = who.Name, scopeDefault, clientID, 1, []string{"pwd"}
	c.RealmID, c.Identifier, _ = strings.Cut(who.IAMID, "-")
	if who.isServiceID() {
		c.Sub, c.SubType, c.Bound = c.Identifier, "ServiceId", who.Bound
	} else {
		c.Sub, c.Email = who.Email, who.Email
		c.GivenName, c.FamilyName, _ = strings.Cut(who.Name, " ")
		c.Account.IMS = strconv.Itoa(1_000_000 + int(crc32.ChecksumIEEE([]byte(who.Account))%9_000_000))
	}
	c.Authn = authnClaim{
		Sub: c.Sub, IAMID: c.IAMID, SubType: c.SubType, Name: c.Name,
		GivenName: c.GivenName, FamilyName: c.FamilyName, Email: c.Email,
	}
	return c
}

// maxInstanceLifetime is that of IBM's published example of a CRN token: shorter than an API key's.
const maxInstanceLifetime = 1796 * time.Second

// instanceClaims is what IAM says about a service that acts as one of its instances (partner services,
// CRN tokens).
func (s *Service) instanceClaims(instanceCRN, account, service string, issued time.Time) claims {
	c := s.newClaims(crnRealm+instanceCRN, account, grantAuthz, issued, min(s.cfg.TokenLifetime, maxInstanceLifetime))
	c.RealmID, c.Identifier, c.Sub, c.SubType = "crn", instanceCRN, instanceCRN, "CRN"
	c.Scope, c.ClientID, c.AMR = scopeDefault+" "+service, service, []string{}
	c.Authn = authnClaim{Sub: c.Sub, IAMID: c.IAMID, SubType: c.SubType}
	return c
}
