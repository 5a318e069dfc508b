(()=>{const tip=document.getElementById("tip"),svgs=[...document.querySelectorAll("figure svg")],L=62,R=14,W=960;
if(!seconds.length)return;const each=seconds.length>1?seconds[1].second-seconds[0].second:1,end=seconds[seconds.length-1].second+each;
const hide=()=>{tip.style.display="none";document.querySelectorAll(".cursor").forEach(c=>{c.style.visibility="hidden"})};
svgs.forEach(svg=>{svg.addEventListener("mouseleave",hide);svg.addEventListener("mousemove",e=>{const box=svg.getBoundingClientRect();
const x=(e.clientX-box.left)/box.width*W,t=(x-L)/(W-L-R)*end,s=seconds[Math.min(seconds.length-1,Math.max(0,Math.floor(t/each)))];
const at=L+(s.second+.5)/end*(W-L-R);document.querySelectorAll(".cursor").forEach(c=>{c.setAttribute("x1",at);c.setAttribute("x2",at);c.style.visibility="visible"});
const line=(n,v)=>v===null?"":"\n"+n+" "+v;
tip.textContent="second "+s.second+line("p50 ms",s.p50)+line("p99 ms",s.p99)+line("slowest ms",s.max)+line("requests",s.requests)+line("errors",s.errors)+line("held",s.held)+line("handoffs",s.handoffs)+line("moved",s.moved);
tip.style.display="block";const w=tip.offsetWidth;tip.style.left=(e.clientX+16+w>innerWidth?e.clientX-16-w:e.clientX+16)+"px";tip.style.top=Math.min(e.clientY+12,innerHeight-tip.offsetHeight-8)+"px"})})})();
