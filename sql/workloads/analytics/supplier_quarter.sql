SELECT sup.id, sup.name, sup.rating, count(DISTINCT po.id) AS orders, sum(pol.qty) AS qty,
       sum(pol.qty * pol.unit_cost) AS cost, sum(extract(epoch FROM lot.received_at - po.ordered_at)) AS seconds_to_receipt
  FROM purchase_order po
  JOIN supplier sup ON sup.id = po.supplier_id
  JOIN warehouse w ON w.id = po.warehouse_id
  JOIN purchase_order_line pol ON pol.purchase_order_id = po.id
  JOIN lot ON lot.purchase_order_id = pol.purchase_order_id AND lot.line = pol.line
  JOIN product p ON p.id = pol.product_id
 WHERE po.ordered_at >= :day::date - 60 AND po.ordered_at < :day::date + 30 AND p.is_active
 GROUP BY sup.id
 ORDER BY sup.id
