package pasted_test

import (
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/services/control/pasted"
)

// A request that is accepted is one PEM block, signed by a key that is strong
// enough; whatever else is refused with a sentence.
func FuzzSigningRequest(f *testing.F) {
	const good = `-----BEGIN CERTIFICATE REQUEST-----
MIHfMIGFAgEAMCMxITAfBgNVBAMMGGttaXBDbGllbnQyMDI2MTEyMzEyMDAwMDBZ
MBMGByqGSM49AgEGCCqGSM49AwEHA0IABOuCq5KcukfpEh0TuHIyzSBM37YWabju
A33ob5AXbjoDhpX7jg364jks7kGXgwVWX+puUzKUwBfii75jk7FW80OgADAKBggq
hkjOPQQDAgNJADBGAiEAh+Xfj+kJVvy0YjkUQAKej6vS3Ec1tBx2IUIrETiD3u0C
IQCKh9FzZP/YeFj7D7hM7RyrhkPixLkd473uufXBl6fJqA==
-----END CERTIFICATE REQUEST-----
`
	if _, err := pasted.SigningRequest(good); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, good + good, strings.ReplaceAll(good, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"), strings.Replace(good, "MIHf", "MIHe", 1), "-----BEGIN"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		request, err := pasted.SigningRequest(text)
		if (request == nil) == (err == nil) {
			t.Fatalf("%v, %v", request, err)
		}
		switch kind := fault.KindOf(err); {
		case err == nil:
			if block, rest := pem.Decode([]byte(text)); block == nil || strings.TrimSpace(string(rest)) != "" || request.CheckSignature() != nil {
				t.Errorf("accepted: %q", text)
			}
		case kind != fault.Invalid && kind != fault.Missing, fault.Public(err) == "":
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzClientCertificate(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
	f.Add("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
	now := time.Now()
	f.Fuzz(func(t *testing.T, text string) {
		certificate, err := pasted.ClientCertificate(text, now)
		if (certificate == nil) == (err == nil) {
			t.Fatalf("%v, %v", certificate, err)
		}
		if kind := fault.KindOf(err); err != nil && kind != fault.Invalid && kind != fault.Missing {
			t.Errorf("%q: %v", text, err)
		}
	})
}
