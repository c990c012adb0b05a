package node

import (
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
	"github.com/kmip-for-vmware/kmip/libs/secret"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

func TestConfigNamesEveryProblem(t *testing.T) {
	_, err := Config{Listen: "5696"}.check()
	for _, name := range []string{
		"KMIP_REGION", "DATABASE_URL", "KMIP_LISTEN", "KMIP_ADMIN_ADDRESS", "KMIP_TLS_CERTIFICATE_FILE", "KMIP_TLS_KEY_FILE", "KMIP_IAM_URL",
		"KMIP_KEY_MANAGER_ENDPOINTS", "KMIP_SEALING_KEYS_FILE",
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Two sealing keys, 32 bytes each.
const (
	firstKey  = "Zmlyc3Qgc2VhbGluZyBrZXkgZm9yIHRlc3RzIG9ubHk="
	secondKey = "c2Vjb25kIHNlYWxpbmcga2V5IGZvciB0ZXN0cyBhbHM="
)

func TestConfigPort(t *testing.T) {
	dir := t.TempDir()
	leaf := serverIdentity().must(t)
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Region: "us-south", DatabaseURL: "postgres://kmip_node@127.0.0.1:5432/kmip", Listen: "127.0.0.1:5696", AdminAddress: "127.0.0.1:8081",
		CertificateFile: write(t, filepath.Join(dir, "leaf"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))),
		KeyFile:         write(t, filepath.Join(dir, "key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))),
		IAMURL:          "https://iam.example.com", KeyManagerEndpoints: "kms/us-south=https://kms.example.com",
		SealingKeysFile: write(t, filepath.Join(dir, "sealing"), firstKey),
	}
	for advertised, want := range map[uint16]uint16{0: 5696, 443: 443} {
		c.AdvertisedPort = advertised
		if p, err := c.check(); err != nil || p.port != want {
			t.Errorf("port %d, %v; want %d", p.port, err, want)
		}
	}
	p, err := c.check()
	if err != nil || p.host != "127.0.0.1" || p.managers.service != nil {
		t.Errorf("%+v, %v", p, err)
	}
	c.ServiceAPIKeyFile = write(t, filepath.Join(dir, "service"), "an API key of the operator\n")
	c.DedicatedPortOffset = 70000
	for _, name := range []string{"KMIP_SERVICE_API_KEY_FILE", "KMIP_DEDICATED_PORT_OFFSET"} {
		if _, err := c.check(); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "an API key of") {
			t.Errorf("%s: %v", name, err)
		}
	}
	write(t, c.ServiceAPIKeyFile, "an-API-key-of-the-operator\n")
	c.DedicatedPortOffset = -30
	if p, err := c.check(); err != nil || p.managers.service == nil {
		t.Errorf("with the operator's own service ID: %+v, %v", p, err)
	}
	c.KeyFile = c.SealingKeysFile
	if _, err := c.check(); err == nil || strings.Contains(err.Error(), firstKey) {
		t.Errorf("a key file that holds something else: %v", err)
	}
}

// TestSealingKeysAreReadAgain rotates the set under a running node.
func TestSealingKeysAreReadAgain(t *testing.T) {
	endpoints, err := keyprotect.ParseEndpoints("kms/us-south=https://kms.example.com")
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "sealing"), firstKey+"\n")
	k := &keyManagers{
		file: file, endpoints: endpoints, log: slog.New(slog.DiscardHandler),
		tokens: func(*secret.Bytes) keyprotect.Tokens { return nil },
	}
	if err := k.load(); err != nil {
		t.Fatal(err)
	}
	second, err := secret.ParseKeyring(secondKey)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := second.Seal(tenant.APIKeyPurpose, "one", secret.Of([]byte("an API key")))
	if err != nil {
		t.Fatal(err)
	}
	one := &tenant.Tenant{ID: "one", KeyManager: &tenant.KeyManager{
		Type:         tenant.KeyProtect,
		InstanceCRN:  "crn:v1:bluemix:public:kms:us-south:a/0123456789abcdef0123456789abcdef:8e19aaff-df40-4623-bef2-86cb19a9d8bd::",
		KeyRing:      "default",
		RootKeyID:    "02fd6835-6001-4482-a892-13bd2085f75d",
		SealedAPIKey: sealed,
	}}
	if _, err := k.open(one); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("opened without its sealing key: %v", err)
	}
	for i, text := range []string{secondKey + "\n" + firstKey + "\n", "not a key"} {
		write(t, file, text)
		changed := time.Now().Add(time.Duration(i+1) * time.Second) // whatever the file system's clock tells apart
		if err := os.Chtimes(file, changed, changed); err != nil {
			t.Fatal(err)
		}
		if _, err := k.open(one); err != nil {
			t.Errorf("with %.10q in the file: %v", text, err)
		}
	}
}
