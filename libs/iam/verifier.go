package iam

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/kmip-for-vmware/kmip/libs/fault"
)

// How signing keys and times are treated.
const (
	// keysEvery is how often the signing keys are read again, so that one that
	// IAM withdrew is forgotten.
	keysEvery = time.Hour
	// unknownKeyEvery is how often a token with an unknown key id makes us
	// read them early; failedEvery the same after a reading that failed.
	unknownKeyEvery = time.Minute
	failedEvery     = 10 * time.Second
	// unknownKeyWait bounds how long such a token's Verify takes.
	unknownKeyWait = 5 * time.Second
	// skew is how far IAM's clock and ours may be apart.
	skew = time.Minute
)

// SubjectType is the kind of identity that a token speaks for.
type SubjectType string

// The subject types, by the claim sub_type of IAM's access tokens; a user's
// has none.
const (
	User      SubjectType = "User"
	ServiceID SubjectType = "ServiceId"
	Profile   SubjectType = "Profile" // trusted profile
	CRN       SubjectType = "CRN"     // a service instance
)

// Identity is who sent a verified access token.
type Identity struct {
	IAMID   string // "IBMid-…", "iam-ServiceId-…", "iam-Profile-…" or "crn-crn:…"
	Account string // account that the token is for, 32 hexadecimal digits
	Type    SubjectType
	Name    string // display name; empty for CRN
	Email   string // of users
}

// Verifier checks the access tokens of callers against IAM's published signing
// keys. Safe for concurrent use.
type Verifier struct {
	keys   *signingKeys
	lookup keyfunc.Keyfunc
	parser *jwt.Parser
}

// NewVerifier reads IAM's signing keys and reads them again from time to time
// until ctx ends. IAM may be down: without keys, Verify answers Unavailable
// and tries to get them; keys once read serve until they can be read again.
func NewVerifier(ctx context.Context, c Config) (*Verifier, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	keys := &signingKeys{MemoryJWKSet: jwkset.NewMemoryStorage(), early: rate.NewLimiter(rate.Every(unknownKeyEvery), 1)}
	keys.stale.Store(true)
	address := c.URL + "/identity/keys"
	remote, err := jwkset.NewStorageFromHTTP(address, jwkset.HTTPClientStorageOptions{
		Client:                    c.HTTP,
		Ctx:                       ctx,
		HTTPTimeout:               unknownKeyWait,
		NoErrorReturnFirstHTTPReq: true,
		RefreshErrorHandler:       func(context.Context, error) { keys.failed() },
		RefreshInterval:           keysEvery,
		Storage:                   keys,
	})
	if err != nil {
		return nil, err
	}
	storage, err := jwkset.NewHTTPClient(jwkset.HTTPClientOptions{
		HTTPURLs:          map[string]jwkset.Storage{address: remote},
		RateLimitWaitMax:  unknownKeyWait,
		RefreshUnknownKID: keys.early,
	})
	if err != nil {
		return nil, err
	}
	lookup, err := keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: &shared{Storage: storage, keys: keys}})
	if err != nil {
		return nil, err
	}
	return &Verifier{
		keys:   keys,
		lookup: lookup,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}),
			jwt.WithIssuer(c.Issuer),
			jwt.WithExpirationRequired(),
			jwt.WithIssuedAt(),
			jwt.WithLeeway(skew),
			jwt.WithTimeFunc(c.Now),
		),
	}, nil
}

// signingKeys are the keys as last read. An empty answer does not replace
// them: IAM always has some.
type signingKeys struct {
	*jwkset.MemoryJWKSet
	stale atomic.Bool   // the last reading failed, or there was none
	early *rate.Limiter // of readings because of an unknown key id
}

// failed notes that the keys could not be read.
func (k *signingKeys) failed() {
	k.stale.Store(true)
	k.early.SetLimit(rate.Every(failedEvery))
}

// KeyReplaceAll implements jwkset.Storage.
func (k *signingKeys) KeyReplaceAll(ctx context.Context, all []jwkset.JWK) error {
	if len(all) == 0 {
		return errors.New("the document holds no signing key")
	}
	k.stale.Store(false)
	k.early.SetLimit(rate.Every(unknownKeyEvery))
	return k.MemoryJWKSet.KeyReplaceAll(ctx, all)
}

// shared lets all tokens with unknown key ids wait for the same reading, so
// that none is refused while the keys roll over.
type shared struct {
	jwkset.Storage // reads again
	keys           *signingKeys
	reading        singleflight.Group
}

// KeyRead implements jwkset.Storage.
func (s *shared) KeyRead(ctx context.Context, id string) (jwkset.JWK, error) {
	if key, err := s.keys.KeyRead(ctx, id); err == nil {
		return key, nil
	}
	select {
	case <-s.reading.DoChan("", func() (any, error) {
		return s.Storage.KeyRead(context.WithoutCancel(ctx), id) // ends after unknownKeyWait
	}):
	case <-ctx.Done():
	}
	return s.keys.KeyRead(ctx, id)
}

// claims are those members of an IAM access token that we use. IAM sets no
// audience: a token is good for every service of its account.
type claims struct {
	jwt.RegisteredClaims
	IAMID   string `json:"iam_id"`
	SubType string `json:"sub_type"`
	Name    string `json:"name"`
	Email   string `json:"email"`
	Account struct {
		Valid *bool  `json:"valid"`
		BSS   string `json:"bss"`
	} `json:"account"`
}

// Verify checks an access token, given without "Bearer ": signed by IAM with
// RS256, issued by it, neither expired nor from the future, and for a valid
// account. Errors are of kind Unauthenticated with a sentence for each of
// these, or Unavailable when the signing keys can't be had.
func (v *Verifier) Verify(ctx context.Context, token string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, errMalformed
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.lookup.KeyfuncCtx(ctx)); err != nil {
		return Identity{}, v.explain(err)
	}
	switch {
	case c.IAMID == "":
		return Identity{}, errMalformed
	case c.Account.BSS == "" || c.Account.Valid != nil && !*c.Account.Valid:
		return Identity{}, fault.New(fault.Unauthenticated,
			"The access token is not for an account. Log in to the account that the instance belongs to.")
	}
	who := Identity{IAMID: c.IAMID, Account: c.Account.BSS, Type: SubjectType(c.SubType), Name: c.Name, Email: c.Email}
	if who.Type == "" {
		who.Type = User
	}
	return who, nil
}

var errMalformed = fault.New(fault.Unauthenticated, "The access token is not one of IAM's.")

// explain gives a failed verification its kind and sentence.
func (v *Verifier) explain(err error) error {
	if errors.Is(err, jwt.ErrTokenUnverifiable) {
		if v.keys.stale.Load() {
			return fault.Wrap(fault.Unavailable, "IAM's signing keys can't be read now.", err)
		}
		return fault.Wrap(fault.Unauthenticated, "The access token is signed with a key that IAM does not publish.", err)
	}
	for _, known := range []struct {
		cause  error
		public string
	}{
		{jwt.ErrTokenSignatureInvalid, "The access token's signature is not valid."},
		{jwt.ErrTokenInvalidIssuer, "The access token was issued by another IAM than this service's."},
		{jwt.ErrTokenExpired, "The access token has expired. Get a new one."},
		{jwt.ErrTokenNotValidYet, "The access token is not valid yet. Check the clock."},
		{jwt.ErrTokenUsedBeforeIssued, "The access token was issued in the future. Check the clock."},
	} {
		if errors.Is(err, known.cause) {
			return fault.Wrap(fault.Unauthenticated, known.public, err)
		}
	}
	return fault.Wrap(fault.Unauthenticated, errMalformed.Public, err)
}
