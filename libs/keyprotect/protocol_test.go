//go:build unix

package keyprotect_test

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/engine"
	"github.com/kmip-for-vmware/kmip/libs/keyprotect"
)

// serverOnly makes this test binary serve instead of test, so that the CPU
// time of a benchmark's process is the client's alone.
const serverOnly = "KEYPROTECT_BENCHMARK_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverOnly) == "" {
		os.Exit(m.Run())
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","keyVersion":{"id":"v"}}`)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	fmt.Fprintln(os.Stdout, s.URL)
	_ = pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	os.Stdout.Close()
	_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
}

// BenchmarkUnwrap compares the protocols over TLS on this machine: CPU time of
// the client for one call, one by one and with 64 at once for each processor.
func BenchmarkUnwrap(b *testing.B) {
	base, roots := benchmarkServer(b)
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, way := range []string{"one by one", "at once"} {
			b.Run(protocol+" "+way, func(b *testing.B) {
				client := keyprotect.NewHTTPClient(roots)
				if protocol == "HTTP/2" {
					client.Transport.(*http.Transport).Protocols.SetHTTP1(false)
					client.Transport.(*http.Transport).Protocols.SetHTTP2(true)
				}
				defer client.CloseIdleConnections()
				c, err := keyprotect.New(keyprotect.Config{
					BaseURL: base, InstanceCRN: instanceCRN, RootKeyID: rootKey, Tokens: &tokens{token: strings.Repeat("t", 1200)}, HTTP: client,
				})
				if err != nil {
					b.Fatal(err)
				}
				unwrap := func() {
					kek, err := c.Unwrap(b.Context(), engine.Wrapped{Ciphertext: strings.Repeat("c", 250), RootKeyID: rootKey}, binding)
					if err != nil {
						b.Error(err)
						return
					}
					kek.Wipe()
				}
				unwrap() // the handshake is not measured
				before := cpu(b)
				if way == "one by one" {
					for b.Loop() {
						unwrap()
					}
				} else {
					b.SetParallelism(64)
					b.ResetTimer()
					b.RunParallel(func(p *testing.PB) {
						for p.Next() {
							unwrap()
						}
					})
				}
				b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// benchmarkServer starts the server in a process of its own.
func benchmarkServer(b *testing.B) (base string, roots *x509.CertPool) {
	b.Helper()
	server := exec.CommandContext(b.Context(), os.Args[0])
	server.Env = append(os.Environ(), serverOnly+"=1")
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = server.Wait()
	})
	said := bufio.NewReader(stdout)
	if base, err = said.ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	certificate, err := io.ReadAll(said)
	if err != nil {
		b.Fatal(err)
	}
	roots = x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		b.Fatal("the server's certificate can't be read")
	}
	return strings.TrimSpace(base), roots
}

// cpu returns the CPU time that this process has taken.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
