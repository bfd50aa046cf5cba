SELECT c.id, c.name, c.email, s.tracking, s.delivered_at, sum(sl.qty) AS qty
  FROM lot suspect
  JOIN purchase_order bad ON bad.id = suspect.purchase_order_id
  JOIN lot ON lot.product_id = suspect.product_id
  JOIN purchase_order po ON po.id = lot.purchase_order_id AND po.supplier_id = bad.supplier_id
  JOIN shipment_line sl ON sl.lot_id = lot.id
  JOIN shipment s ON s.id = sl.shipment_id
  JOIN sales_order o ON o.id = s.order_id
  JOIN customer c ON c.id = o.customer_id
 WHERE suspect.id = (SELECT max(id) FROM lot WHERE product_id = :product)
   AND po.ordered_at BETWEEN bad.ordered_at - interval '30 days' AND bad.ordered_at + interval '30 days'
 GROUP BY c.id, s.id
 ORDER BY c.id, s.id
