package iam

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.etcd.io/bbolt"
)

// kidLayout is how IBM's key ids look: the minute a key was made.
const kidLayout = "200601021504"

// maxVerified bounds how many tokens are remembered as verified.
const maxVerified = 10_000

// signer makes and verifies IAM access tokens (RS256).
type signer struct {
	db     *bbolt.DB
	issuer string
	now    func() time.Time

	mu      sync.Mutex
	keys    map[string]*rsa.PrivateKey // by kid
	current string                     // kid that signs: the newest
	proofs  map[[sha256.Size]byte]proof
}

// proof is what a token said whose signature and issuer were right.
type proof struct {
	iamID   string
	expires time.Time
}

// openSigner loads the signing keys. A new data file gets two, as IBM publishes several: the one that
// signs and a predecessor.
func openSigner(db *bbolt.DB, issuer string, now func() time.Time) (*signer, error) {
	s := &signer{db: db, issuer: issuer, now: now, keys: map[string]*rsa.PrivateKey{}, proofs: map[[sha256.Size]byte]proof{}}
	err := db.View(func(tx *bbolt.Tx) error {
		return bucket(tx, bucketSigning).ForEach(func(kid, raw []byte) error {
			key, err := x509.ParsePKCS8PrivateKey(raw)
			if err != nil {
				return err
			}
			rsaKey, ok := key.(*rsa.PrivateKey)
			if !ok {
				return fmt.Errorf("signing key %s is a %T", kid, key)
			}
			s.keys[string(kid)] = rsaKey
			s.current = max(s.current, string(kid))
			return nil
		})
	})
	if err != nil || s.current != "" {
		return s, err
	}
	return s, errors.Join(s.add(now().AddDate(0, 0, -30)), s.add(now()))
}

// add makes a key that was made at a time, or in the first minute after the current one if that is
// later. From then on it signs.
func (s *signer) add(made time.Time) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kid := made.UTC().Format(kidLayout)
	if kid <= s.current {
		last, err := time.Parse(kidLayout, s.current)
		if err != nil {
			return err
		}
		kid = last.Add(time.Minute).Format(kidLayout)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error { return bucket(tx, bucketSigning).Put([]byte(kid), raw) })
	if err == nil {
		s.keys[kid], s.current = key, kid
	}
	return err
}

func (s *signer) roll() error { return s.add(s.now()) }

func (s *signer) retire() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for kid := range s.keys {
			if kid == s.current {
				continue
			}
			if err := bucket(tx, bucketSigning).Delete([]byte(kid)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		maps.DeleteFunc(s.keys, func(kid string, _ *rsa.PrivateKey) bool { return kid != s.current })
		clear(s.proofs)
	}
	return err
}

// jwk is one entry of GET /identity/keys; IBM's entries have no "use" member.
type jwk struct {
	Kty string `json:"kty"`
	N   string `json:"n"`
	E   string `json:"e"`
	Alg string `json:"alg"`
	Kid string `json:"kid"`
}

// published are the keys that verify tokens, newest first.
func (s *signer) published() []jwk {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	slices.SortFunc(out, func(a, b jwk) int { return strings.Compare(b.Kid, a.Kid) })
	return out
}

func (s *signer) sign(c claims) (string, error) {
	s.mu.Lock()
	kid, key := s.current, s.keys[s.current]
	s.mu.Unlock()
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	t.Header = map[string]any{"kid": kid, "alg": "RS256"}
	return t.SignedString(key)
}

// Why a request carries no usable token.
var (
	ErrNoToken         = errors.New("no valid token")
	ErrTokenUnreadable = errors.New("the token cannot be parsed")
)

// caller verifies the request's bearer token and returns its IAM id.
func (s *signer) caller(r *http.Request) (string, error) {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", ErrNoToken
	}
	return s.verify(strings.TrimSpace(raw))
}

// verify returns the IAM id of a token. What was verified is remembered: a signature costs more than
// most calls.
func (s *signer) verify(raw string) (string, error) {
	sum := sha256.Sum256([]byte(raw))
	s.mu.Lock()
	known, ok := s.proofs[sum]
	s.mu.Unlock()
	if ok && s.now().Before(known.expires) {
		return known.iamID, nil
	}
	var c claims
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(s.issuer),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(s.now),
	).ParseWithClaims(raw, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		s.mu.Lock()
		defer s.mu.Unlock()
		if key := s.keys[kid]; key != nil {
			return &key.PublicKey, nil
		}
		return nil, ErrNoToken
	})
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed), err == nil && c.Sub == "":
		return "", ErrTokenUnreadable
	case err != nil:
		return "", ErrNoToken
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.proofs) >= maxVerified {
		clear(s.proofs)
	}
	s.proofs[sum] = proof{c.IAMID, time.Unix(c.EXP, 0)}
	return c.IAMID, nil
}
