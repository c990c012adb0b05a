package iam

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

const (
	bucketIdentities = "iam_identities"     // IAM id → identity
	bucketAPIKeys    = "iam_api_keys"       // API key id → apiKey
	bucketKeyHashes  = "iam_api_key_hashes" // SHA-256 of an API key's value, hex → its id
	bucketPolicies   = "iam_policies"       // policy id → policy
	bucketSigning    = "signing"            // kid → PKCS #8 RSA key
)

// Buckets are the top-level buckets that Config.DB must have.
var Buckets = []string{bucketIdentities, bucketAPIKeys, bucketKeyHashes, bucketPolicies, bucketSigning}

func bucket(tx *bbolt.Tx, name string) *bbolt.Bucket { return tx.Bucket([]byte(name)) }

// Config is what a Service is made of. All fields are required.
type Config struct {
	DB            *bbolt.DB // holds Buckets; a change is on disk before its answer leaves
	Issuer        string    // iss claim
	TokenLifetime time.Duration
	Now           func() time.Time
	Log           *slog.Logger
	// Proved is told who a request proved to come from.
	Proved func(r *http.Request, iamID string)
}

// Service is IAM. It is safe for concurrent use; what it confirms is on disk.
type Service struct {
	cfg    Config
	signer *signer
	rules  *rulebook
	// changing is held while policies are written and taken over into rules, to keep their order.
	changing sync.Mutex
}

// New loads signing keys, made when there are none, and policies.
func New(cfg Config) (*Service, error) {
	s := &Service{cfg: cfg, rules: newRulebook(cfg.Now)}
	var err error
	if s.signer, err = openSigner(cfg.DB, cfg.Issuer, cfg.Now); err != nil {
		return nil, err
	}
	return s, cfg.DB.View(func(tx *bbolt.Tx) error {
		return records.Each(bucket(tx, bucketPolicies), func(p policy) error {
			s.rules.set(p)
			return nil
		})
	})
}

// Handler serves the IAM address.
func (s *Service) Handler() http.Handler {
	r := chi.NewRouter()
	r.Use(echoTransaction)
	s.tokenRoutes(r)
	s.identityRoutes(r)
	s.policyRoutes(r)
	return r
}

// Caller verifies the request's bearer token and returns its IAM id. The error is ErrTokenUnreadable
// for what is no JWT with a subject, ErrNoToken for every other fault.
func (s *Service) Caller(r *http.Request) (string, error) {
	iamID, err := s.signer.caller(r)
	if err == nil {
		s.cfg.Proved(r, iamID)
	}
	return iamID, err
}

// RollSigningKeys makes a new key that signs tokens from now on. Tokens of the older keys stay valid
// and the keys published until RetireSigningKeys.
func (s *Service) RollSigningKeys() error { return s.signer.roll() }

// RetireSigningKeys forgets all keys but the one that signs, and thereby all tokens of the others.
func (s *Service) RetireSigningKeys() error { return s.signer.retire() }

const transactionHeader = "Transaction-Id"

// echoTransaction gives every answer the request's Transaction-Id, or a new one.
func echoTransaction(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(transactionHeader, cmp.Or(r.Header.Get(transactionHeader), uuid.NewString()))
		next.ServeHTTP(w, r)
	})
}

// internal logs what a client must not see and answers 500 without it.
func (s *Service) internal(w http.ResponseWriter, r *http.Request, err error) {
	s.cfg.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}

// absent turns records.ErrNone into another error.
func absent(err, instead error) error {
	if errors.Is(err, records.ErrNone) {
		return instead
	}
	return err
}
