// Command grpcgo makes a unary call with grpc-go, as an app would, and prints the answer.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func main() {
	if err := call(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func call(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(u.Host+":443", grpc.WithTransportCredentials(credentials.NewTLS(new(tls.Config))))
	if err != nil {
		return err
	}
	defer conn.Close()
	var answer []byte
	if err := conn.Invoke(context.Background(), "/things.Things/Get", []byte{}, &answer, grpc.ForceCodec(asItIs{})); err != nil {
		return err
	}
	_, err = os.Stdout.Write(answer)
	return err
}

// asItIs is a codec for messages that are bytes.
type asItIs struct{}

func (asItIs) Name() string { return "bytes" }

func (asItIs) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (asItIs) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
