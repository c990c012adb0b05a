package iam

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/kmip-for-vmware/kmip/services/emulator/iam/access"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

const (
	bucketIdentities = "iam_identities"     // IAM id → identity
	bucketAPIKeys    = "iam_api_keys"       // API key id → apiKey
	bucketKeyHashes  = "iam_api_key_hashes" // SHA-256 of an API key's value, hex → its id
	bucketSigning    = "signing"            // kid → PKCS #8 RSA key
)

// Buckets are the top-level buckets that Config.DB must have.
var Buckets = append([]string{bucketIdentities, bucketAPIKeys, bucketKeyHashes, bucketSigning}, access.Buckets...)

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

// Service is IAM: its own address, and what the other services ask it. It is safe for concurrent use.
type Service struct {
	*access.Service
	cfg    Config
	signer *signer
}

// New loads policies and signing keys, which are made when there are none.
func New(cfg Config) (*Service, error) {
	s := &Service{cfg: cfg}
	var err error
	if s.signer, err = openSigner(cfg.DB, cfg.Issuer, cfg.Now); err != nil {
		return nil, err
	}
	s.Service, err = access.New(access.Config{DB: cfg.DB, Now: cfg.Now, Log: cfg.Log, Caller: s.Caller, Locked: locked})
	return s, err
}

// locked tells whether an IAM id is that of a locked service ID.
func locked(tx *bbolt.Tx, iamID string) (bool, error) {
	who, err := records.Get[identity](bucket(tx, bucketIdentities), iamID)
	return who.Locked, absent(err, nil)
}

// Handler serves the IAM address.
func (s *Service) Handler() http.Handler {
	r := chi.NewRouter()
	r.Use(echoTransaction)
	s.tokenRoutes(r)
	s.identityRoutes(r)
	s.Routes(r)
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

// absent turns records.ErrNone into another error.
func absent(err, instead error) error {
	if errors.Is(err, records.ErrNone) {
		return instead
	}
	return err
}
