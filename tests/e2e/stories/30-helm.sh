# story: helm
story_helm() {
    local helm
    for helm in helm3 helm4; do
        rm -rf "$work/chart" && mkdir -p "$work/chart/templates"
        printf 'apiVersion: v2\nname: demo\nversion: 0.1.0\n' >"$work/chart/Chart.yaml"
        printf 'replicas: 1\n' >"$work/chart/values.yaml"
        cat >"$work/chart/templates/all.yaml" <<EOF
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers:
      - {name: web, image: "$web"}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .Release.Name }}
spec:
  selector: {app: {{ .Release.Name }}}
  ports: [{port: 80}]
EOF
        check "$helm install" $helm install demo "$work/chart" --wait --timeout 60s
        check "$helm upgrade" $helm upgrade demo "$work/chart" --set replicas=2 --wait --timeout 60s
        check "$helm rollback" $helm rollback demo 1 --wait --timeout 60s
        check "$helm history" says "Rollback to 1" $helm history demo
        check "$helm uninstall" $helm uninstall demo --wait --timeout 60s
    done
}
