package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"time"
)

func init() {
	register("webhook", webhook)
	register("crd-conversion-webhook", conversion)
}

type object = map[string]any

// at walks down nested maps; nil where a step is missing.
func at(value any, path ...string) any {
	for _, step := range path {
		m, ok := value.(object)
		if !ok {
			return nil
		}
		value = m[step]
	}
	return value
}

type verdict struct {
	allowed bool
	message string
	patch   []object
}

func allow() verdict              { return verdict{allowed: true} }
func deny(message string) verdict { return verdict{message: message} }

func add(path string, value any) object { return object{"op": "add", "path": path, "value": value} }

var verdicts = map[string]func(request object) verdict{
	"/always-allow-delay-5s":    func(object) verdict { time.Sleep(5 * time.Second); return allow() },
	"/always-deny":              func(object) verdict { return deny("this webhook denies all requests") },
	"/add-label":                addLabel,
	"/pods":                     pods,
	"/pods/attach":              attach,
	"/mutating-pods":            mutatePods,
	"/configmaps":               denyData("the configmap contains unwanted key and value", "the configmap cannot be deleted because it contains unwanted key and value"),
	"/mutating-configmaps":      mutateData,
	"/custom-resource":          denyData("the custom resource contains unwanted data", "the custom resource cannot be deleted because it contains unwanted key and value"),
	"/mutating-custom-resource": mutateData,
	"/crd":                      crd,
}

func addLabel(request object) verdict {
	labels, _ := at(request, "object", "metadata", "labels").(object)
	switch {
	case len(labels) == 0:
		return verdict{allowed: true, patch: []object{add("/metadata/labels", object{"added-label": "yes"})}}
	case labels["added-label"] != "yes":
		return verdict{allowed: true, patch: []object{add("/metadata/labels/added-label", "yes")}}
	}
	return allow()
}

func pods(request object) verdict {
	pod := request["object"]
	var message string
	switch at(pod, "metadata", "labels", "webhook-e2e-test") {
	case "webhook-disallow":
		message += "the pod contains unwanted label; "
	case "wait-forever":
		select {}
	}
	containers, _ := at(pod, "spec", "containers").([]any)
	for _, c := range containers {
		if name, _ := at(c, "name").(string); strings.Contains(name, "webhook-disallow") {
			message += "the pod contains unwanted container name; "
		}
	}
	return verdict{allowed: message == "", message: strings.TrimSpace(message)}
}

func attach(request object) verdict {
	if request["name"] == "to-be-attached-pod" {
		return deny("attaching to pod 'to-be-attached-pod' is not allowed")
	}
	return allow()
}

func mutatePods(request object) verdict {
	if at(request, "object", "metadata", "name") != "webhook-to-be-mutated" {
		return allow()
	}
	added := []object{{"image": "webhook-added-image", "name": "webhook-added-init-container", "resources": object{}}}
	return verdict{allowed: true, patch: []object{add("/spec/initContainers", added)}}
}

// denyData refuses data that is not wanted, and the deletion of what says that it stays.
func denyData(unwanted, stays string) func(object) verdict {
	return func(request object) verdict {
		if request["operation"] == "DELETE" {
			if at(request, "oldObject", "data", "webhook-e2e-test") == "webhook-nondeletable" {
				return deny(stays)
			}
			return allow()
		}
		if at(request, "object", "data", "webhook-e2e-test") == "webhook-disallow" {
			return deny(unwanted)
		}
		return allow()
	}
}

func mutateData(request object) verdict {
	var patch []object
	for from, to := range map[string]string{"mutation-start": "mutation-stage-1", "mutation-stage-1": "mutation-stage-2"} {
		if at(request, "object", "data", from) == "yes" {
			patch = append(patch, add("/data/"+to, "yes"))
		}
	}
	return verdict{allowed: true, patch: patch}
}

func crd(request object) verdict {
	if at(request, "object", "metadata", "labels", "webhook-e2e-test") == "webhook-disallow" {
		return deny("the crd contains unwanted label")
	}
	return allow()
}

// review serves one review kind: the request in, the response out under the same apiVersion.
func review(path string, answer func(request object) object) {
	http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var in object
		if err == nil {
			err = json.Unmarshal(body, &in)
		}
		request, ok := in["request"].(object)
		if err != nil || !ok {
			log.Printf("%s: bad review: %v: %s", path, err, body)
			http.Error(w, "a review in JSON is wanted", http.StatusBadRequest)
			return
		}
		response := answer(request)
		response["uid"] = request["uid"]
		w.Header().Set("Content-Type", "application/json")
		answerJSON(w, http.StatusOK, object{"apiVersion": in["apiVersion"], "kind": in["kind"], "response": response})
	})
}

func webhook(args []string) error {
	set := flags("webhook")
	cert := set.String("tls-cert-file", "", "certificate")
	key := set.String("tls-private-key-file", "", "key")
	port := set.Int("port", 443, "port")
	set.String("sidecar-image", "", "unused")
	parse(set, args)
	for path, judge := range verdicts {
		review(path, func(request object) object {
			v := judge(request)
			log.Printf("%s %v %v: %+v", path, request["operation"], request["name"], v)
			response := object{"allowed": v.allowed}
			if v.message != "" {
				response["status"] = object{"message": v.message}
			}
			if len(v.patch) > 0 {
				patch, err := json.Marshal(v.patch)
				if err != nil {
					log.Fatal(err)
				}
				response["patchType"], response["patch"] = "JSONPatch", patch
			}
			return response
		})
	}
	return secure(*port, *cert, *key)
}

func secure(port int, cert, key string) error {
	http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return http.ListenAndServeTLS(fmt.Sprintf(":%d", port), cert, key, nil)
}

// convert turns `hostPort` of v1 into `host` and `port` of v2 and back.
func convert(o object, to string) error {
	from, _ := o["apiVersion"].(string)
	_, have, _ := strings.Cut(from, "/")
	_, want, _ := strings.Cut(to, "/")
	switch {
	case have == want:
		return fmt.Errorf("conversion from a version to itself should not call the webhook: %s", to)
	case have == "v1" && want == "v2":
		if text, ok := o["hostPort"].(string); ok {
			delete(o, "hostPort")
			host, port, _ := strings.Cut(text, ":")
			o["host"], o["port"] = host, port
		}
	case have == "v2" && want == "v1":
		host, some := o["host"]
		port, more := o["port"]
		if some || more {
			delete(o, "host")
			delete(o, "port")
			o["hostPort"] = fmt.Sprintf("%v:%v", host, port)
		}
	default:
		return fmt.Errorf("unexpected conversion from %q to %q", from, to)
	}
	o["apiVersion"] = to
	return nil
}

func conversion(args []string) error {
	set := flags("crd-conversion-webhook")
	cert := set.String("tls-cert-file", "", "certificate")
	key := set.String("tls-private-key-file", "", "key")
	port := set.Int("port", 443, "port")
	parse(set, args)
	review("/crdconvert", func(request object) object {
		to, _ := request["desiredAPIVersion"].(string)
		objects, _ := request["objects"].([]any)
		for _, o := range objects {
			if err := convert(o.(object), to); err != nil {
				log.Printf("crdconvert: %v", err)
				return object{"result": object{"status": "Failure", "message": err.Error()}}
			}
		}
		return object{"convertedObjects": objects, "result": object{"status": "Success"}}
	})
	return secure(*port, *cert, *key)
}
