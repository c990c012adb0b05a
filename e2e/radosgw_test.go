//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/gemalto/kmip-go/kmip14"
	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/wire/client"
)

// gateway is Ceph's object gateway: S3 on one side, KMIP towards a node on the
// other, by libkmip. It finds a key by its name and asks for it at every read
// and write.
type gateway struct {
	*s3.Client
	cluster *ceph
}

// The account that each gateway's client uses.
const (
	s3AccessKey = "e2e"
	s3SecretKey = "not a secret"
)

// keyTemplate makes a key's name of the identifier in an S3 request.
const keyTemplate = "ceph-$keyid"

// newGateway starts a gateway that has its keys from a node of a tenant.
func newGateway(t *testing.T, cluster *ceph, port int, to tenant, node int) gateway {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	cluster.start(t, fmt.Sprintf("client.rgw.%d", port), "radosgw",
		"--rgw-frontends", "beast endpoint="+address,
		"--rgw-crypt-require-ssl", "false",
		"--rgw-crypt-s3-kms-backend", "kmip",
		"--rgw-crypt-kmip-addr", to.address(node),
		"--rgw-crypt-kmip-ca-path", to.ca,
		"--rgw-crypt-kmip-client-cert", to.certificateFile,
		"--rgw-crypt-kmip-client-key", to.keyFile,
		"--rgw-crypt-kmip-kms-key-template", keyTemplate)
	eventually(t, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
	return gateway{cluster: cluster, Client: s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + address), Region: "default", UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s3AccessKey, SecretAccessKey: s3SecretKey}, nil
		}),
		// This gateway is older than the checksums that the client adds by itself.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})}
}

// put stores an object, under a key unless that is empty.
func (g gateway) put(ctx context.Context, bucket, object, key string, body []byte) error {
	in := &s3.PutObjectInput{Bucket: &bucket, Key: &object, Body: bytes.NewReader(body)}
	if key != "" {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &key
	}
	_, err := g.PutObject(ctx, in)
	return err
}

// get reads an object whole.
func (g gateway) get(ctx context.Context, bucket, object string) ([]byte, error) {
	out, err := g.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &object})
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

// atRest is what the cluster holds of an object of one part.
func (g gateway) atRest(t *testing.T, object string) []byte {
	t.Helper()
	const pool = "default.rgw.buckets.data"
	for name := range strings.Lines(string(g.cluster.run(t, "rados", "-p", pool, "ls"))) {
		name = strings.TrimSuffix(name, "\n")
		if strings.HasSuffix(name, "_"+object) {
			return g.cluster.run(t, "rados", "-p", pool, "get", name, "-")
		}
	}
	t.Fatalf("%s holds no object %s", pool, object)
	return nil
}

// wantKeyless checks that a gateway turned a request away for its key.
func wantKeyless(t *testing.T, err error, key, when string) {
	t.Helper()
	var refusal smithy.APIError
	if !errors.As(err, &refusal) || !strings.Contains(refusal.ErrorMessage(), key) {
		t.Errorf("%s: %v, want an error about key %s", when, err, key)
	}
}

// TestRadosGateway has Ceph encrypt objects with a tenant's key: what one
// gateway wrote with the key from one node, another reads with the key from the
// other; in the cluster there is ciphertext; a destroyed key ends it.
func TestRadosGateway(t *testing.T) {
	t.Parallel()
	cluster := newCeph(t)
	cluster.run(t, "radosgw-admin", "user", "create", "--uid", "e2e", "--display-name", "e2e",
		"--access-key", s3AccessKey, "--secret-key", s3SecretKey)
	eachTenant(t, func(t *testing.T, to tenant) { runGateways(t, cluster, to) })
}

func runGateways(t *testing.T, cluster *ceph, to tenant) {
	port := cluster.port + 50 + 2*slices.Index(tenants, to.name)
	first, second := newGateway(t, cluster, port, to, 0), newGateway(t, cluster, port+1, to, 1)
	ctx, bucket := t.Context(), uuid.NewString()
	if _, err := first.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}

	key := uuid.NewString()
	conn := to.dial(t, 0)
	id, err := conn.Create(ctx, append(slices.Clone(vSphere), kmip.Attribute{Name: kmip.AttributeName, Value: kmip.Struct(
		kmip.Field{Tag: uint32(kmip14.TagNameValue), Value: kmip.Text(strings.Replace(keyTemplate, "$keyid", key, 1))},
		kmip.Field{Tag: uint32(kmip14.TagNameType), Value: kmip.Enum(kmip14.NameTypeUninterpretedTextString)},
	)})...)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Activate(ctx, id); err != nil {
		t.Fatal(err)
	}

	// Not a whole number of blocks, so that the tail is encrypted too.
	body := make([]byte, 100_003)
	rand.Read(body)
	plain, encrypted := "plain-"+bucket, "encrypted-"+bucket // at rest, all buckets share a pool
	if err := first.put(ctx, bucket, plain, "", body); err != nil {
		t.Fatal(err)
	}
	if err := first.put(ctx, bucket, encrypted, key, body); err != nil {
		t.Fatal(err)
	}
	// An empty object: the gateway closes the connection without reading the body.
	unknown := uuid.NewString()
	wantKeyless(t, first.put(ctx, bucket, "refused", unknown, nil), unknown, "storing under an unknown key")
	reads := func(object string) {
		t.Helper()
		for _, g := range []gateway{first, second} {
			if got, err := g.get(ctx, bucket, object); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s: read %d bytes, %v; want the %d that were stored", object, len(got), err, len(body))
			}
		}
	}
	reads(plain)
	reads(encrypted)

	if !bytes.Equal(first.atRest(t, plain), body) {
		t.Error("the cluster does not hold the plain object as it is")
	}
	stored := first.atRest(t, encrypted)
	for block := range slices.Chunk(body[:len(body)/16*16], 16) {
		if bytes.Contains(stored, block) {
			t.Fatalf("the cluster holds %x of the encrypted object", block)
		}
	}
	if len(stored) != len(body) {
		t.Errorf("the cluster holds %d bytes of the encrypted object, want %d", len(stored), len(body))
	}

	// A revoked key is still readable; a destroyed one is gone.
	if err := conn.Revoke(ctx, id, client.RevokeUnspecified, "", time.Time{}); err != nil {
		t.Fatal(err)
	}
	reads(encrypted)
	if err := conn.Destroy(ctx, id); err != nil {
		t.Fatal(err)
	}
	for _, g := range []gateway{first, second} {
		_, err := g.get(ctx, bucket, encrypted)
		wantKeyless(t, err, key, "reading under a destroyed key")
	}
	reads(plain)
}
