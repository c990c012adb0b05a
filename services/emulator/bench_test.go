package emulator

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkProcess measures what a wrap and an unwrap cost the emulator: the processor time of its
// process, HTTP and token check included, over connections that stay open.
func BenchmarkProcess(b *testing.B) {
	p := startProcess(b)
	wrap := `{"plaintext":"` + b64(strings.Repeat("k", 32)) + `","aad":["kmip-for-vmware/1","tenant","identifier"]}`
	unwrap := `{"ciphertext":"` + member(p.post(b, p.keys+"/actions/wrap", wrap), "ciphertext") + `","aad":["kmip-for-vmware/1","tenant","identifier"]}`
	for _, c := range []struct{ action, body string }{{"wrap", wrap}, {"unwrap", unwrap}} {
		for _, connections := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/connections=%d", c.action, connections), func(b *testing.B) {
				before := p.processorTime(b)
				var calls atomic.Int64
				done := make(chan struct{})
				for range connections {
					go func() {
						for calls.Add(1) <= int64(b.N) {
							p.post(b, p.keys+"/actions/"+c.action, c.body)
						}
						done <- struct{}{}
					}()
				}
				for range connections {
					<-done
				}
				b.ReportMetric(float64((p.processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// process is the program kmip-emulator with one root key.
type process struct {
	pid         int
	keys, token string // the key's address once there is one
	client      *http.Client
}

func startProcess(b *testing.B) *process {
	b.Helper()
	dir := b.TempDir()
	program := filepath.Join(dir, "kmip-emulator")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", program, "../cmd/kmip-emulator").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	iam, kms := freeAddress(b), freeAddress(b)
	cmd := exec.Command(program, "--data-dir", filepath.Join(dir, "data"), "--seed", writeSeed(b, testSeed()), "--iam-addr", iam, "--key-protect-addr", kms,
		"--hpcs-addr", freeAddress(b), "--resource-controller-addr", freeAddress(b), "--admin-addr", freeAddress(b))
	log, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), "emulator started") {
		b.Log(lines.Text())
	}
	go func() { _, _ = io.Copy(io.Discard, log) }()

	p := &process{pid: cmd.Process.Pid, keys: "http://" + kms + "/api/v2/keys", client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {managerKey}}.Encode()
	p.token = member(p.post(b, "http://"+iam+"/identity/token", form), "access_token")
	p.keys += "/" + member(p.post(b, p.keys, newKeyBody(`"name":"root","extractable":false`)), "id")
	return p
}

// post sends a request that succeeds and returns the body of its answer.
func (p *process) post(b *testing.B, to, body string) string {
	req, err := http.NewRequest(http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return ""
	}
	if strings.HasPrefix(body, "{") {
		req.Header.Set("Authorization", "Bearer "+p.token)
		req.Header.Set("Bluemix-Instance", kmsInstance)
	} else {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := p.client.Do(req)
	if err != nil {
		b.Error(err)
		return ""
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		b.Errorf("%d %s, %v", res.StatusCode, raw, err)
	}
	return string(raw)
}

// member is the first string member of that name in a JSON text.
func member(text, name string) string {
	_, after, _ := strings.Cut(text, `"`+name+`":"`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

// processorTime is what the process has used so far, as Linux counts it.
func (p *process) processorTime(b *testing.B) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		b.Skip("processor time is read from /proc: ", err)
	}
	// The second field is the program's name in parentheses; the 14th and 15th are user and system time
	// in hundredths of a second.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}
